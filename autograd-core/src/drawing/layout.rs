//! Where nodes lie: layers, orders and columns (Sugiyama, Tagawa, Toda, 1981).

/// Where things are drawn; coordinates are of centres.
pub(super) struct Placed {
    pub(super) x: Vec<f64>,
    pub(super) y: Vec<f64>,
    pub(super) width: f64,
    pub(super) height: f64,
    /// The points of each edge.
    pub(super) routes: Vec<Vec<(f64, f64)>>,
}

/// Room between neighbours of a layer, and between layers.
const GAP: (f64, f64) = (24.0, 40.0);

/// The width that an edge takes where it passes a layer.
const LANE: f64 = 8.0;

/// Edges that pass more layers than this in all are drawn straight instead.
const MOST_LANES: usize = 50_000;

/// Rounds of ordering and of straightening.
const ROUNDS: usize = 8;

/// What lies in layers: the nodes, then the places where edges pass a layer.
struct Items {
    layer: Vec<usize>,
    width: Vec<f64>,
    up: Vec<Vec<usize>>,
    down: Vec<Vec<usize>>,
}

/// Lays out nodes of given sizes; edges go from lower to higher numbers.
pub(super) fn place(sizes: &[(f64, f64)], edges: &[(usize, usize)]) -> Placed {
    let (items, lanes) = spread(sizes, edges);
    let count = items.layer.iter().max().map_or(0, |last| last + 1);
    let mut layers: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (item, &layer) in items.layer.iter().enumerate() {
        layers[layer].push(item);
    }
    order(&items, &mut layers);
    let mut x = columns(&items, &layers);
    let left = x.iter().zip(&items.width).map(|(x, w)| x - w / 2.0).fold(f64::INFINITY, f64::min);
    x.iter_mut().for_each(|x| *x += GAP.0 - if left.is_finite() { left } else { 0.0 });
    let right = x.iter().zip(&items.width).map(|(x, w)| x + w / 2.0).fold(0.0, f64::max);
    let mut middle = Vec::with_capacity(count);
    let mut bottom = GAP.1 / 2.0;
    for layer in &layers {
        let tallest = layer.iter().filter_map(|&i| sizes.get(i)).map(|size| size.1).fold(0.0, f64::max);
        middle.push(bottom + tallest / 2.0);
        bottom += tallest + GAP.1;
    }
    let y: Vec<f64> = items.layer.iter().map(|&layer| middle[layer]).collect();
    let route = |(&(from, to), lanes): (&(usize, usize), &Vec<usize>)| {
        let mut points = vec![(x[from], y[from] + sizes[from].1 / 2.0)];
        points.extend(lanes.iter().map(|&lane| (x[lane], y[lane])));
        points.push((x[to], y[to] - sizes[to].1 / 2.0));
        points
    };
    let routes = edges.iter().zip(&lanes).map(route).collect();
    let (mut x, mut y) = (x.clone(), y.clone());
    x.truncate(sizes.len());
    y.truncate(sizes.len());
    Placed { x, y, width: right + GAP.0, height: bottom, routes }
}

/// Puts nodes in layers, and lanes where edges pass the layers between.
fn spread(sizes: &[(f64, f64)], edges: &[(usize, usize)]) -> (Items, Vec<Vec<usize>>) {
    let mut layer = vec![0usize; sizes.len()];
    let mut sorted = edges.to_vec();
    sorted.sort_unstable_by_key(|&(_, to)| to);
    for &(from, to) in &sorted {
        layer[to] = layer[to].max(layer[from] + 1);
    }
    // What nothing leads to lies right above its first reader.
    let mut reader = vec![usize::MAX; sizes.len()];
    let mut is_read_from = vec![true; sizes.len()];
    for &(from, to) in edges {
        reader[from] = reader[from].min(layer[to]);
        is_read_from[to] = false;
    }
    for id in 0..sizes.len() {
        if is_read_from[id] && reader[id] != usize::MAX {
            layer[id] = reader[id] - 1;
        }
    }
    let passed: usize = edges.iter().map(|&(from, to)| layer[to] - layer[from] - 1).sum();
    let mut width: Vec<f64> = sizes.iter().map(|size| size.0).collect();
    let (mut up, mut down) = (vec![Vec::new(); sizes.len()], vec![Vec::new(); sizes.len()]);
    let mut lanes = Vec::with_capacity(edges.len());
    for &(from, to) in edges {
        let mut passes = Vec::new();
        let mut last = from;
        if passed <= MOST_LANES {
            for between in layer[from] + 1..layer[to] {
                let lane = width.len();
                layer.push(between);
                width.push(LANE);
                up.push(vec![last]);
                down.push(Vec::new());
                down[last].push(lane);
                passes.push(lane);
                last = lane;
            }
        }
        up[to].push(last);
        down[last].push(to);
        lanes.push(passes);
    }
    (Items { layer, width, up, down }, lanes)
}

/// Orders each layer by the mean position of its neighbours, down and up in turn.
fn order(items: &Items, layers: &mut [Vec<usize>]) {
    let mut position = vec![0.0; items.layer.len()];
    let note = |layer: &[usize], position: &mut [f64]| {
        layer.iter().enumerate().for_each(|(at, &item)| position[item] = at as f64);
    };
    layers.iter().for_each(|layer| note(layer, &mut position));
    for round in 0..ROUNDS {
        let downwards = round % 2 == 0;
        let neighbours = if downwards { &items.up } else { &items.down };
        for at in 0..layers.len() {
            let at = if downwards { at } else { layers.len() - 1 - at };
            let mean = |item: usize| {
                let near = &neighbours[item];
                match near.len() {
                    0 => position[item],
                    n => near.iter().map(|&other| position[other]).sum::<f64>() / n as f64,
                }
            };
            let mut keyed: Vec<(f64, usize)> = layers[at].iter().map(|&item| (mean(item), item)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            layers[at] = keyed.into_iter().map(|(_, item)| item).collect();
            note(&layers[at], &mut position);
        }
    }
}

/// Columns: everything as close to its neighbours' mean as the order and the widths allow.
fn columns(items: &Items, layers: &[Vec<usize>]) -> Vec<f64> {
    let mut x = vec![0.0; items.layer.len()];
    let apart = |a: usize, b: usize| (items.width[a] + items.width[b]) / 2.0 + GAP.0;
    for layer in layers {
        for pair in layer.windows(2) {
            x[pair[1]] = x[pair[0]] + apart(pair[0], pair[1]);
        }
    }
    for round in 0..ROUNDS {
        let downwards = round % 2 == 0;
        let neighbours = if downwards { &items.up } else { &items.down };
        for at in 0..layers.len() {
            let layer = &layers[if downwards { at } else { layers.len() - 1 - at }];
            let wish = |item: usize| match neighbours[item].len() {
                0 => x[item],
                n => neighbours[item].iter().map(|&other| x[other]).sum::<f64>() / n as f64,
            };
            let wishes: Vec<f64> = layer.iter().map(|&item| wish(item)).collect();
            // Pushed to the right and pushed to the left both keep the distances; so does their mean.
            let (mut right, mut left) = (wishes.clone(), wishes);
            for i in 1..layer.len() {
                right[i] = right[i].max(right[i - 1] + apart(layer[i - 1], layer[i]));
            }
            for i in (1..layer.len()).rev() {
                left[i - 1] = left[i - 1].min(left[i] - apart(layer[i - 1], layer[i]));
            }
            for (i, &item) in layer.iter().enumerate() {
                x[item] = (right[i] + left[i]) / 2.0;
            }
        }
    }
    x
}
