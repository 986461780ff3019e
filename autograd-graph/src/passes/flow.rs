//! Maximum flow and the minimum cut that goes with it, by Dinic's algorithm.

use std::collections::VecDeque;

/// More than all capacities together: an edge that no cut goes through.
pub(super) const UNCUT: u64 = 1 << 60;

/// A network of edges with capacities.
pub(super) struct Network {
    /// The numbers of the edges that leave each node; edge `e` and its reverse `e ^ 1` are neighbours.
    leaving: Vec<Vec<usize>>,
    to: Vec<usize>,
    room: Vec<u64>,
}

impl Network {
    pub(super) fn new(nodes: usize) -> Self {
        Self { leaving: vec![Vec::new(); nodes], to: Vec::new(), room: Vec::new() }
    }

    pub(super) fn edge(&mut self, from: usize, to: usize, capacity: u64) {
        for (a, b, room) in [(from, to, capacity), (to, from, 0)] {
            self.leaving[a].push(self.to.len());
            self.to.push(b);
            self.room.push(room);
        }
    }

    /// Sends as much as there is room for; which nodes are then on the sink's side of the minimum
    /// cut that is closest to the sink.
    pub(super) fn cut(&mut self, source: usize, sink: usize) -> Vec<bool> {
        while let Some(levels) = self.levels(source, sink) {
            self.block(source, sink, &levels);
        }
        // From where the sink can still be reached: edges are walked against their direction.
        let mut side = vec![false; self.leaving.len()];
        side[sink] = true;
        let mut open = vec![sink];
        while let Some(node) = open.pop() {
            for &edge in &self.leaving[node] {
                let from = self.to[edge];
                if self.room[edge ^ 1] > 0 && !side[from] {
                    side[from] = true;
                    open.push(from);
                }
            }
        }
        side
    }

    /// Distances from the source over edges with room; `None` where the sink is out of reach.
    fn levels(&self, source: usize, sink: usize) -> Option<Vec<usize>> {
        let mut level = vec![usize::MAX; self.leaving.len()];
        level[source] = 0;
        let mut open = VecDeque::from([source]);
        while let Some(node) = open.pop_front() {
            for &edge in &self.leaving[node] {
                let to = self.to[edge];
                if self.room[edge] > 0 && level[to] == usize::MAX {
                    level[to] = level[node] + 1;
                    open.push_back(to);
                }
            }
        }
        (level[sink] != usize::MAX).then_some(level)
    }

    /// Fills shortest paths until none is left.
    fn block(&mut self, source: usize, sink: usize, level: &[usize]) {
        let mut next = vec![0; self.leaving.len()];
        let mut path: Vec<usize> = Vec::new();
        let mut node = source;
        loop {
            if node == sink {
                let least = path.iter().map(|&edge| self.room[edge]).min().unwrap_or(0);
                for &edge in &path {
                    self.room[edge] -= least;
                    self.room[edge ^ 1] += least;
                }
                path.clear();
                node = source;
                continue;
            }
            match self.leaving[node].get(next[node]) {
                Some(&edge) if self.room[edge] > 0 && level[self.to[edge]] == level[node] + 1 => {
                    path.push(edge);
                    node = self.to[edge];
                }
                Some(_) => next[node] += 1,
                None => match path.pop() {
                    // A dead end: back, and past the edge that led here.
                    Some(edge) => {
                        node = self.to[edge ^ 1];
                        next[node] += 1;
                    }
                    None => return,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_place_is_cut_and_the_last_of_several() {
        // 0 → 1 → 2 → 3 → 4 with room 5, 2, 3, 2: both twos are minimal, the later one is taken.
        let mut network = Network::new(5);
        for (from, room) in [5, 2, 3, 2].into_iter().enumerate() {
            network.edge(from, from + 1, room);
        }
        assert_eq!(network.cut(0, 4), [false, false, false, false, true]);
    }

    #[test]
    fn flow_goes_back_where_that_lets_more_through() {
        // The shortest paths cross; the middle edge has to be given back.
        let mut network = Network::new(6);
        for (from, to, room) in
            [(0, 1, 4), (0, 2, 3), (1, 2, 9), (1, 3, 3), (2, 4, 5), (3, 5, 2), (4, 5, 6), (3, 4, 1)]
        {
            network.edge(from, to, room);
        }
        let side = network.cut(0, 5);
        // 7 leave the source, and 2 + 6 may enter the sink.
        assert_eq!(side, [false, true, true, true, true, true]);
    }
}
