//! Colourings: which columns may share a seed.
//!
//! Both greedy algorithms are from Gebremedhin, Manne and Pothen, "What color is your Jacobian?
//! Graph coloring for computing derivatives", SIAM Review 47 (2005), and take time proportional to
//! the paths of two (for the star colouring three) edges that they look at.

use super::pattern::SparsityPattern;
use autograd_core::{Error, Result, Site};

/// Not coloured yet.
const NONE: u32 = u32::MAX;

/// A colour for each column, or for each row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Colouring {
    colours: Vec<u32>,
    count: usize,
}

impl Colouring {
    /// The colour of each column or row, from 0.
    pub fn colours(&self) -> &[u32] {
        &self.colours
    }

    /// How many colours there are.
    pub fn count(&self) -> usize {
        self.count
    }

    fn of(colours: Vec<u32>) -> Self {
        let count = colours.iter().map(|&c| c as usize + 1).max().unwrap_or(0);
        Self { colours, count }
    }
}

/// Colours columns so that no row has two entries of one colour: a distance-2 colouring of the
/// columns in the bipartite graph of rows and columns (Coleman and Moré 1983; Algorithm 3.1 of
/// Gebremedhin, Manne and Pothen). Columns are taken as they come and by descending number of
/// entries; the better one is kept.
pub fn column_colouring(pattern: &SparsityPattern) -> Colouring {
    let by_column = pattern.transpose();
    let natural: Vec<u32> = (0..pattern.columns() as u32).collect();
    let mut largest_first = natural.clone();
    largest_first.sort_by_key(|&j| std::cmp::Reverse(by_column.row(j as usize).len()));
    best(&natural, &largest_first, |order| partial_distance_two(pattern, &by_column, order))
}

/// Colours rows so that no column has two entries of one colour: what compressed rows need.
pub fn row_colouring(pattern: &SparsityPattern) -> Colouring {
    column_colouring(&pattern.transpose())
}

/// Colours the vertices of a symmetric structure so that neighbours differ and every path of four
/// vertices has at least three colours: a star colouring (Algorithm 4.1 of Gebremedhin, Manne and
/// Pothen), from which each entry of a Hessian can be read directly. The diagonal counts as full.
///
/// # Errors
/// [`Error::InvalidArgument`](autograd_core::Error::InvalidArgument) where the structure is not
/// symmetric.
#[track_caller]
pub fn star_colouring(pattern: &SparsityPattern) -> Result<Colouring> {
    if !pattern.is_symmetric() {
        let reason = format!("a {}×{} structure that is not symmetric", pattern.rows(), pattern.columns());
        return Err(Error::argument("star_colouring", reason).or_at(Site::caller()));
    }
    let natural: Vec<u32> = (0..pattern.columns() as u32).collect();
    let mut largest_first = natural.clone();
    largest_first.sort_by_key(|&j| std::cmp::Reverse(pattern.row(j as usize).len()));
    Ok(best(&natural, &largest_first, |order| star(pattern, order)))
}

fn best(natural: &[u32], largest_first: &[u32], colour: impl Fn(&[u32]) -> Vec<u32>) -> Colouring {
    let first = Colouring::of(colour(natural));
    if natural == largest_first {
        return first;
    }
    let second = Colouring::of(colour(largest_first));
    if second.count < first.count { second } else { first }
}

/// A set of colours for each vertex in turn, marked with the vertex so that it needs no clearing.
struct Forbidden(Vec<u32>);

impl Forbidden {
    fn mark(&mut self, colour: u32, vertex: u32) {
        if self.0.len() <= colour as usize {
            self.0.resize(colour as usize + 1, NONE);
        }
        self.0[colour as usize] = vertex;
    }

    fn is_marked(&self, colour: u32, vertex: u32) -> bool {
        self.0.get(colour as usize) == Some(&vertex)
    }

    fn first_free(&self, vertex: u32) -> u32 {
        let free = self.0.iter().position(|&marked| marked != vertex);
        free.unwrap_or(self.0.len()) as u32
    }
}

fn partial_distance_two(by_row: &SparsityPattern, by_column: &SparsityPattern, order: &[u32]) -> Vec<u32> {
    let mut colours = vec![NONE; by_row.columns()];
    let mut forbidden = Forbidden(Vec::new());
    for &column in order {
        for &row in by_column.row(column as usize) {
            for &other in by_row.row(row as usize) {
                let colour = colours[other as usize];
                if colour != NONE {
                    forbidden.mark(colour, column);
                }
            }
        }
        colours[column as usize] = forbidden.first_free(column);
    }
    colours
}

fn star(pattern: &SparsityPattern, order: &[u32]) -> Vec<u32> {
    let mut colours = vec![NONE; pattern.columns()];
    let mut forbidden = Forbidden(Vec::new());
    // The colours that two neighbours of the vertex have.
    let mut repeated = Forbidden(Vec::new());
    let neighbours = |v: u32| pattern.row(v as usize).iter().copied().filter(move |&w| w != v);
    for &v in order {
        for colour in neighbours(v).map(|w| colours[w as usize]).filter(|&colour| colour != NONE) {
            if forbidden.is_marked(colour, v) {
                repeated.mark(colour, v);
            }
            forbidden.mark(colour, v);
        }
        for w in neighbours(v) {
            let middle = colours[w as usize];
            for x in neighbours(w).filter(|&x| x != v) {
                let far = colours[x as usize];
                if far == NONE {
                    continue;
                }
                // v – w – x: with w open, v and x must differ; with w coloured, v may share x's
                // colour unless w's colour is repeated beyond either end.
                let closed = middle == NONE
                    || repeated.is_marked(middle, v)
                    || neighbours(x).any(|y| y != w && colours[y as usize] == middle);
                if closed {
                    forbidden.mark(far, v);
                }
            }
        }
        colours[v as usize] = forbidden.first_free(v);
    }
    colours
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The structure of a five-point stencil on a grid.
    fn grid(side: usize) -> SparsityPattern {
        let mut rows = Vec::new();
        for i in 0..side {
            for j in 0..side {
                let mut row = vec![i * side + j];
                row.extend((i > 0).then(|| (i - 1) * side + j));
                row.extend((i + 1 < side).then(|| (i + 1) * side + j));
                row.extend((j > 0).then(|| i * side + j - 1));
                row.extend((j + 1 < side).then(|| i * side + j + 1));
                rows.push(row);
            }
        }
        SparsityPattern::from_rows(&rows, side * side).expect("columns of the grid")
    }

    #[test]
    fn no_row_has_two_columns_of_one_colour() {
        let pattern = grid(12);
        let colouring = column_colouring(&pattern);
        for i in 0..pattern.rows() {
            let mut seen: Vec<u32> =
                pattern.row(i).iter().map(|&j| colouring.colours()[j as usize]).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), pattern.row(i).len(), "row {i}");
        }
        assert!((5..=9).contains(&colouring.count()), "{} colours for five points", colouring.count());
    }

    #[test]
    fn a_path_of_four_vertices_has_three_star_colours() -> Result<()> {
        let pattern = grid(7);
        let colouring = star_colouring(&pattern)?;
        let colour = |v: u32| colouring.colours()[v as usize];
        let mut paths = 0;
        for a in 0..pattern.columns() as u32 {
            for &b in pattern.row(a as usize).iter().filter(|&&b| b != a) {
                assert_ne!(colour(a), colour(b));
                for &c in pattern.row(b as usize).iter().filter(|&&c| c != b && c != a) {
                    for &d in pattern.row(c as usize).iter().filter(|&&d| d != c && d != b && d != a) {
                        paths += 1;
                        let mut seen = [colour(a), colour(b), colour(c), colour(d)];
                        seen.sort_unstable();
                        assert!(seen.windows(2).filter(|w| w[0] != w[1]).count() >= 2, "{a} {b} {c} {d}");
                    }
                }
            }
        }
        assert!(paths > 100);
        Ok(())
    }

    #[test]
    fn an_arrow_takes_two_star_colours_and_a_tridiagonal_matrix_three() -> Result<()> {
        let n = 20;
        let arrow: Vec<Vec<usize>> =
            (0..n).map(|i| if i == 0 { (0..n).collect() } else { vec![0, i] }).collect();
        assert_eq!(star_colouring(&SparsityPattern::from_rows(&arrow, n)?)?.count(), 2);
        let band: Vec<Vec<usize>> = (0..n).map(|i| (i.saturating_sub(1)..(i + 2).min(n)).collect()).collect();
        let band = SparsityPattern::from_rows(&band, n)?;
        assert_eq!(column_colouring(&band).count(), 3);
        assert_eq!(star_colouring(&band)?.count(), 3);
        Ok(())
    }

    #[test]
    fn a_star_colouring_needs_symmetry() -> Result<()> {
        let lopsided = SparsityPattern::from_rows(&[vec![0, 1], vec![1]], 2)?;
        let error = star_colouring(&lopsided).expect_err("not symmetric");
        assert!(matches!(error, Error::InvalidArgument { .. }) && error.site().is_some(), "{error}");
        assert!(SparsityPattern::from_rows(&[[2]], 2).is_err(), "column 2 of 2");
        Ok(())
    }
}
