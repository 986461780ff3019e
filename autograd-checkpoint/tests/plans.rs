//! Plans against theory: counts from the literature, exhaustive search, and a machine that carries
//! a plan out step by step and counts what lives.

use autograd_checkpoint::{ChainCost, LayerCost, OffloadCost, Part, Plan, binomial_recomputations};
use autograd_core::Error;

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        // Steele, Lea and Flood's SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn chain(&mut self, layers: usize) -> ChainCost {
        let layer = |r: &mut Self| LayerCost {
            // Quarters, so that sums are exact in any order.
            work: (1 + r.below(40)) as f64 / 4.0,
            output: 1 + r.below(9),
            kept: r.below(20),
            keeps_output: r.below(2) == 0,
            forward_scratch: r.below(6),
            discard_scratch: r.below(12),
            backward_scratch: r.below(15),
            gradients: r.below(4),
        };
        ChainCost::new((0..layers).map(|_| layer(self)).collect()).expect("layers of finite work")
    }
}

/// Carries a plan out and counts live bytes, as a machine would: what is allocated and freed when.
struct Machine<'a> {
    cost: &'a ChainCost,
    live: usize,
    peak: usize,
    evaluations: usize,
    work: f64,
}

impl Machine<'_> {
    fn take(&mut self, bytes: usize) {
        self.live += bytes;
        self.peak = self.peak.max(self.live);
    }

    fn touch(&mut self, bytes: usize) {
        self.take(bytes);
        self.live -= bytes;
    }

    fn evaluate(&mut self, layer: usize) {
        self.evaluations += 1;
        self.work += self.cost.layers()[layer].work;
    }

    /// Evaluates the parts; afterwards the last one's output lives where `keep_output` or its
    /// layer keeps it.
    fn forward(&mut self, parts: &[Part], keep_output: bool) {
        for (i, part) in parts.iter().enumerate() {
            let last = i + 1 == parts.len();
            match part {
                Part::Keep(layer) => {
                    let c = &self.cost.layers()[*layer];
                    self.evaluate(*layer);
                    self.take(c.output + c.kept);
                    self.touch(c.forward_scratch);
                    if last && !keep_output && !c.keeps_output {
                        self.live -= c.output;
                    }
                }
                Part::Recompute { layers, .. } => {
                    for layer in layers.clone() {
                        let c = &self.cost.layers()[layer];
                        self.evaluate(layer);
                        self.take(c.output);
                        self.touch(c.discard_scratch);
                        if layer > layers.start {
                            self.live -= self.cost.layers()[layer - 1].output;
                        }
                    }
                    if last && !keep_output {
                        self.live -= self.cost.layers()[layers.end - 1].output;
                    }
                }
            }
        }
    }

    /// Pulls back: the cotangent of the last output lives at the start, that of the first input at
    /// the end. `outer`: the last output belongs to somebody else.
    fn backward(&mut self, parts: &[Part], outer: bool) {
        for (i, part) in parts.iter().enumerate().rev() {
            let range = match part {
                Part::Keep(layer) => *layer..layer + 1,
                Part::Recompute { layers, .. } => layers.clone(),
            };
            let ours = i + 1 < parts.len() || !outer;
            let c = &self.cost.layers()[range.end - 1];
            match part {
                Part::Keep(_) => {
                    if ours && !c.keeps_output && i + 1 < parts.len() {
                        self.live -= c.output;
                    }
                    self.touch(c.backward_scratch);
                    self.live -= c.kept + c.output;
                    if c.keeps_output && ours {
                        self.live -= c.output;
                    }
                    self.live += c.gradients;
                }
                Part::Recompute { parts: inner, .. } => {
                    if i + 1 < parts.len() {
                        self.live -= c.output;
                    }
                    self.forward(inner, false);
                    self.backward(inner, false);
                    continue;
                }
            }
            // The cotangent of this part's input.
            self.live += input(self.cost, range.start);
        }
    }
}

fn input(cost: &ChainCost, layer: usize) -> usize {
    if layer == 0 { 0 } else { cost.layers()[layer - 1].output }
}

/// Peak, evaluations and extra work of a plan that is carried out.
fn carried_out(parts: &[Part], cost: &ChainCost) -> (usize, usize, f64) {
    let mut machine = Machine { cost, live: 0, peak: 0, evaluations: 0, work: 0.0 };
    let last = cost.layers().last().expect("a chain has layers").output;
    // The seed is counted from the start.
    machine.take(last);
    machine.forward(parts, true);
    machine.backward(parts, true);
    let extra = machine.work - cost.work_of(0..cost.len());
    (machine.peak, machine.evaluations, extra)
}

/// Every plan of a segment.
fn every_plan(start: usize, end: usize) -> Vec<Vec<Part>> {
    if start == end {
        return vec![Vec::new()];
    }
    let mut plans = Vec::new();
    for rest in every_plan(start + 1, end) {
        plans.push([vec![Part::Keep(start)], rest].concat());
    }
    for split in start + 1..end {
        for (inner, rest) in every_plan(start, split)
            .iter()
            .flat_map(|a| every_plan(split, end).into_iter().map(move |b| (a, b)))
        {
            let first = Part::Recompute { layers: start..split, parts: inner.clone(), offload: false };
            plans.push([vec![first], rest].concat());
        }
    }
    plans
}

#[test]
fn binomial_counts_are_those_of_revolve() {
    // Forward advances without the taped step: Griewank and Walther's t(l, s).
    let table = [
        (10, 1, 45),
        (10, 2, 20),
        (10, 3, 15),
        (50, 3, 180),
        (50, 5, 122),
        (100, 3, 490),
        (100, 5, 316),
        (100, 10, 222),
        (300, 5, 1338),
        (300, 10, 836),
        (1000, 10, 3636),
    ];
    for (layers, states, want) in table {
        let plan = Plan::binomial(layers, states).unwrap();
        assert_eq!(plan.recomputations(), want, "({layers}, {states})");
        assert_eq!(binomial_recomputations(layers, states), want as u128, "({layers}, {states})");
    }
    for (layers, states) in (1..40).flat_map(|l| (1..6).map(move |s| (l, s))) {
        let plan = Plan::binomial(layers, states).unwrap();
        let want = binomial_recomputations(layers, states);
        assert_eq!(plan.recomputations() as u128, want, "({layers}, {states})");
        assert!(states_stored(plan.parts()) <= states, "({layers}, {states}) stores too much");
    }
}

/// The most states stored at one time, the first input among them and the last layer's input not:
/// that one is being worked on.
fn states_stored(parts: &[Part]) -> usize {
    let mut stored = 1;
    let mut most = 1;
    for part in parts {
        if let Part::Recompute { parts: inner, layers, .. } = part {
            most = most.max(stored - 1 + states_stored(inner));
            if layers.end
                < parts.last().map_or(0, |p| match p {
                    Part::Keep(i) => *i,
                    Part::Recompute { layers, .. } => layers.end,
                })
            {
                stored += 1;
            }
        }
    }
    most.max(stored)
}

#[test]
fn halving_evaluates_two_eight_and_twenty_four_again() {
    for (layers, want) in [(4, 2), (8, 8), (16, 24)] {
        assert_eq!(Plan::halving(layers).unwrap().recomputations(), want);
    }
}

#[test]
fn groups_evaluate_each_layer_at_most_twice() {
    assert_eq!(Plan::every(12, 5).unwrap().recomputations(), 10);
    assert_eq!(Plan::every(4, 9).unwrap().recomputations(), 0);
    assert_eq!(Plan::square_root(16).unwrap().recomputations(), 12);
    assert_eq!(Plan::square_root(17).unwrap().to_string(), "[0-4] [5-9] [10-14] 15-16");
    assert_eq!(Plan::each(3).unwrap().recomputations(), 3);
    assert_eq!(Plan::keep_all(3).unwrap().recomputations(), 0);
}

#[test]
fn predictions_equal_plans_carried_out() {
    let mut random = Random(7);
    for round in 0..300 {
        let layers = 1 + round % 20;
        let cost = random.chain(layers);
        let plans = [
            Plan::keep_all(layers),
            Plan::each(layers),
            Plan::every(layers, 3),
            Plan::square_root(layers),
            Plan::halving(layers),
            Plan::binomial(layers, 1),
            Plan::binomial(layers, 3),
        ];
        for plan in plans {
            let plan = plan.unwrap();
            let predicted = plan.predict(&cost).unwrap();
            let (peak, evaluations, extra) = carried_out(plan.parts(), &cost);
            assert_eq!(predicted.peak_bytes, peak, "{plan} on {cost:?}");
            assert_eq!(predicted.evaluations.iter().sum::<usize>(), evaluations, "{plan}");
            assert_eq!(predicted.extra_work, extra, "{plan}");
        }
    }
}

#[test]
fn the_optimal_plan_equals_exhaustive_search_on_200_random_chains() {
    let mut random = Random(2024);
    let mut tried = 0;
    for round in 0..200 {
        let layers = 1 + round % 12;
        let cost = random.chain(layers);
        let most = carried_out(Plan::keep_all(layers).unwrap().parts(), &cost).0;
        let least = Plan::least_budget(&cost);
        // Schröder's numbers: 8 558 plans for 8 layers, 5 293 446 for 12. Up to 8 layers all of
        // them are carried out; of longer chains all that take less work than the claim.
        let all = (layers <= 8).then(|| {
            let plans = every_plan(0, layers);
            tried += plans.len();
            plans.iter().map(|parts| carried_out(parts, &cost)).collect::<Vec<_>>()
        });
        if let Some(all) = &all {
            assert_eq!(least, all.iter().map(|(peak, ..)| *peak).min().unwrap());
        }
        for step in 0..=4 {
            let budget = least + most.saturating_sub(least) * step / 4;
            let plan = Plan::optimal(&cost, budget).unwrap();
            let (peak, _, extra) = carried_out(plan.parts(), &cost);
            assert!(peak <= budget, "{plan}: {peak} of {budget}");
            if let Some(all) = &all {
                let fits = all.iter().filter(|(peak, ..)| *peak <= budget);
                let best = fits.map(|(.., extra)| *extra).fold(f64::INFINITY, f64::min);
                assert_eq!(extra, best, "{plan} at {budget} on {cost:?}");
            } else if extra <= cost.work_of(0..layers) {
                let better = cheaper(&cost, extra, &mut |parts| {
                    tried += 1;
                    carried_out(parts, &cost).0 <= budget
                });
                assert!(!better, "{plan} at {budget} on {cost:?} can be bettered");
            }
        }
        let error = Plan::optimal(&cost, least - 1).unwrap_err();
        assert!(matches!(error, Error::Budget { least: said, .. } if said == least), "{error}");
    }
    assert!(tried > 200_000, "only {tried} plans were tried");
}

/// Whether a plan of less extra work than `limit` passes the test: all of them are made.
fn cheaper(cost: &ChainCost, limit: f64, test: &mut dyn FnMut(&[Part]) -> bool) -> bool {
    /// Extends `parts` from `start` to `end` in all ways; `spent` is the work so far.
    fn extend(
        cost: &ChainCost,
        (start, end): (usize, usize),
        parts: &mut Vec<Part>,
        (spent, limit): (f64, f64),
        visit: &mut dyn FnMut(&[Part], f64) -> bool,
    ) -> bool {
        if spent >= limit {
            return false;
        }
        if start == end {
            return visit(parts, spent);
        }
        parts.push(Part::Keep(start));
        let found = extend(cost, (start + 1, end), parts, (spent, limit), visit);
        parts.pop();
        let splits = start + 1..end;
        found
            || splits.into_iter().any(|split| {
                let spent = spent + cost.work_of(start..split);
                extend(cost, (start, split), &mut Vec::new(), (spent, limit), &mut |inner, spent| {
                    let parts_inside = inner.to_vec();
                    parts.push(Part::Recompute { layers: start..split, parts: parts_inside, offload: false });
                    let found = extend(cost, (split, end), parts, (spent, limit), visit);
                    parts.pop();
                    found
                })
            })
    }
    extend(cost, (0, cost.len()), &mut Vec::new(), (0.0, limit), &mut |parts, _| test(parts))
}

#[test]
fn the_optimal_plan_is_never_worse_than_revolve_on_equal_layers() {
    let units = [LayerCost::unit(), LayerCost::new(1.0, 4, 12)];
    for (layers, states) in (2..30).flat_map(|l| (1..5).map(move |s| (l, s))) {
        for unit in &units {
            let cost = ChainCost::uniform(layers, unit.clone()).unwrap();
            let revolve = Plan::binomial(layers, states).unwrap();
            let predicted = revolve.predict(&cost).unwrap();
            let optimal = Plan::optimal(&cost, predicted.peak_bytes).unwrap().predict(&cost).unwrap();
            assert!(
                optimal.extra_work <= predicted.extra_work,
                "({layers}, {states}): {} over {}, {revolve}",
                optimal.extra_work,
                predicted.extra_work
            );
            assert!(optimal.peak_bytes <= predicted.peak_bytes, "({layers}, {states})");
        }
    }
}

#[test]
fn long_chains_are_planned_too() {
    let mut random = Random(5);
    for layers in [50, 70] {
        let cost = random.chain(layers);
        let least = Plan::least_budget(&cost);
        let all = Plan::keep_all(layers).unwrap().predict(&cost).unwrap().peak_bytes;
        let mut before = f64::INFINITY;
        for step in 0..=4 {
            let budget = least + (all - least) * step / 4;
            let plan = Plan::optimal(&cost, budget).unwrap();
            let predicted = plan.predict(&cost).unwrap();
            assert!(predicted.peak_bytes <= budget && predicted.extra_work <= before);
            before = predicted.extra_work;
        }
        assert_eq!(before, 0.0);
    }
    let equal = ChainCost::uniform(300, LayerCost::unit()).unwrap();
    assert!(Plan::optimal(&equal, 40).unwrap().predict(&equal).unwrap().peak_bytes <= 40);
}

#[test]
fn a_second_level_of_storage_saves_work_or_memory() {
    let mut random = Random(11);
    let mut helped = 0;
    for round in 0..60 {
        let layers = 3 + round % 14;
        let cost = random.chain(layers);
        let least = Plan::least_budget(&cost);
        let alone = Plan::optimal(&cost, least).unwrap().predict(&cost).unwrap();
        let free = OffloadCost { limit: usize::MAX, work_per_byte: 0.0 };
        let plan = Plan::two_level(&cost, least, free).unwrap();
        let predicted = plan.predict(&cost).unwrap();
        assert!(predicted.peak_bytes <= least, "{plan}: {} of {least}", predicted.peak_bytes);
        assert!(predicted.extra_work <= alone.extra_work, "{plan}");
        helped += usize::from(predicted.extra_work < alone.extra_work);
        // A bound on the disk holds; where nothing may wait, nothing does.
        let bounded = Plan::two_level(&cost, least, OffloadCost { limit: 9, work_per_byte: 0.0 }).unwrap();
        let bound = bounded.predict(&cost).unwrap();
        assert!(bound.offloaded_bytes <= 9 && bound.extra_work >= predicted.extra_work);
        let none = Plan::two_level(&cost, least, OffloadCost { limit: 0, work_per_byte: 0.0 }).unwrap();
        assert_eq!(none.predict(&cost).unwrap().offloaded_bytes, 0);
        // The least budget with a disk is at most that without, and is met.
        match Plan::two_level(&cost, 0, free).unwrap_err() {
            Error::Budget { least: with_disk, .. } => {
                assert!(with_disk <= least);
                let plan = Plan::two_level(&cost, with_disk, free).unwrap();
                assert!(plan.predict(&cost).unwrap().peak_bytes <= with_disk, "{plan}");
            }
            other => panic!("{other}"),
        }
    }
    assert!(helped > 20, "the disk helped {helped} times");
}

#[test]
fn what_is_no_plan_is_an_error() {
    for (layers, parts) in [
        (2, vec![Part::Keep(0)]),
        (2, vec![Part::Keep(1), Part::Keep(0)]),
        (1, vec![Part::Keep(0), Part::Keep(1)]),
        (2, vec![Part::Recompute { layers: 0..2, parts: vec![Part::Keep(0)], offload: false }]),
        (0, vec![]),
    ] {
        let error = Plan::new(layers, parts).unwrap_err();
        assert!(error.to_string().contains("plans.rs"), "{error}");
    }
    assert!(Plan::every(3, 0).is_err() && Plan::each(0).is_err() && Plan::binomial(3, 0).is_err());
    let nan = LayerCost { work: f64::NAN, ..LayerCost::unit() };
    assert!(ChainCost::new(vec![nan]).is_err() && ChainCost::new(vec![]).is_err());
    let cost = ChainCost::uniform(3, LayerCost::unit()).unwrap();
    assert!(Plan::each(2).unwrap().predict(&cost).is_err());
}

#[test]
fn a_plan_explains_itself() {
    let cost = ChainCost::uniform(6, LayerCost::new(1.0, 1_000_000, 4_000_000)).unwrap();
    let text = Plan::optimal(&cost, 20_000_000).unwrap().explain();
    for line in ["optimal plan for 6 layers", "predicted peak", "of 20.00 MB allowed", "extra forward work"] {
        assert!(text.contains(line), "{text}");
    }
}
