//! Recorded computations as pictures: DOT for other tools, SVG for the eye.
//!
//! The layout is our own: layers by the longest way from an input, an order within each layer that
//! avoids crossings, straight columns where they fit. What is drawn is small, and the crates that
//! lay graphs out bring a parser and a renderer along.

mod layout;
mod svg;

use crate::error::{Error, Result};
use crate::meta::Meta;
use crate::program::{Operand, Program};
use std::fmt::Write;
use std::path::Path;

/// How a node looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
    /// A step of the computation.
    #[default]
    Step,
    /// An input or a variable.
    Input,
    /// A result.
    Output,
    /// Something that is not needed any more.
    Faded,
    /// Something that is wrong.
    Alarming,
}

/// A node to draw.
#[derive(Clone, Debug, Default)]
pub struct DrawnNode {
    /// Its lines, the title first.
    pub lines: Vec<String>,
    /// What a pointer that rests on it sees.
    pub hint: String,
    /// How it looks.
    pub look: Look,
}

/// A graph to draw: nodes in an order in which edges go from earlier to later ones.
#[derive(Clone, Debug, Default)]
pub struct Drawing {
    nodes: Vec<DrawnNode>,
    edges: Vec<(usize, usize)>,
}

impl Drawing {
    /// An empty drawing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a node, and edges to it from earlier nodes; returns its number.
    pub fn node(&mut self, node: DrawnNode, from: impl IntoIterator<Item = usize>) -> usize {
        let id = self.nodes.len();
        self.nodes.push(node);
        self.edges.extend(from.into_iter().filter(|&from| from < id).map(|from| (from, id)));
        id
    }

    /// The nodes.
    pub fn nodes(&self) -> &[DrawnNode] {
        &self.nodes
    }

    /// The edges, from earlier to later nodes.
    pub fn edges(&self) -> &[(usize, usize)] {
        &self.edges
    }

    /// The graph in the DOT language.
    pub fn to_dot(&self) -> String {
        let mut dot = String::from("digraph tape {\n  node [shape=box, fontname=monospace];\n");
        for (id, node) in self.nodes.iter().enumerate() {
            let lines: Vec<String> = node.lines.iter().map(|line| quoted(line)).collect();
            let style = match node.look {
                Look::Step => "",
                Look::Input => ", style=bold",
                Look::Output => ", peripheries=2",
                Look::Faded => ", style=dashed",
                Look::Alarming => ", style=filled, fillcolor=\"#f7c6c5\"",
            };
            let (label, hint) = (lines.join("\\n"), quoted(&node.hint));
            let _ = writeln!(dot, "  n{id} [label=\"{label}\", tooltip=\"{hint}\"{style}];");
        }
        for (from, to) in &self.edges {
            let _ = writeln!(dot, "  n{from} -> n{to};");
        }
        dot.push_str("}\n");
        dot
    }

    /// The graph as an SVG picture that any browser shows.
    pub fn to_svg(&self) -> String {
        svg::render(self)
    }

    /// Writes the graph to a file, in the format that the ending names: `.svg` or `.dot`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another ending, and where the file cannot be written.
    #[track_caller]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |reason: String| Error::argument("save", reason).or_at(crate::error::Site::caller());
        let text = match path.extension().and_then(|ending| ending.to_str()) {
            Some("svg") => self.to_svg(),
            Some("dot" | "gv") => self.to_dot(),
            _ => return Err(failed(format!("{} ends neither in .svg nor in .dot", path.display()))),
        };
        std::fs::write(path, text).map_err(|e| failed(format!("{}: {e}", path.display())))
    }
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A number of bytes in words.
pub fn bytes_in_words(bytes: usize) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// Shape, element type and size of a value, for a node's line.
pub fn meta_in_words(meta: &Meta) -> String {
    format!("{} {:?}, {}", meta.shape, meta.dtype, bytes_in_words(meta.bytes()))
}

impl Program {
    /// The program as a picture: every instruction with the shapes and sizes of what it makes.
    ///
    /// ```
    /// use autograd_core::Program;
    ///
    /// fn picture(program: &Program) -> String {
    ///     program.drawing().to_svg()
    /// }
    /// ```
    pub fn drawing(&self) -> Drawing {
        let mut drawing = Drawing::new();
        for (i, meta) in self.inputs.iter().enumerate() {
            let lines = vec![format!("x{i}"), meta_in_words(meta)];
            drawing.node(DrawnNode { lines, look: Look::Input, ..DrawnNode::default() }, []);
        }
        for (i, constant) in self.constants.iter().enumerate() {
            let lines = vec![format!("c{i}"), meta_in_words(&constant.meta())];
            drawing.node(DrawnNode { lines, look: Look::Faded, ..DrawnNode::default() }, []);
        }
        let first = self.inputs.len() + self.constants.len();
        let number = |operand: &Operand| match *operand {
            Operand::Input(i) => i,
            Operand::Constant(i) => self.inputs.len() + i,
            Operand::Result { instruction, .. } => first + instruction,
        };
        for (i, instruction) in self.instructions.iter().enumerate() {
            let mut lines = vec![format!("%{i} {}", instruction.op.name())];
            lines.extend(instruction.op.label().map(|label| format!("{label:?}")));
            lines.extend(instruction.outputs.iter().map(meta_in_words));
            let node = DrawnNode { lines, hint: instruction.site.to_string(), look: Look::Step };
            drawing.node(node, instruction.operands.iter().map(number));
        }
        for (i, output) in self.outputs.iter().enumerate() {
            let node =
                DrawnNode { lines: vec![format!("result {i}")], hint: String::new(), look: Look::Output };
            drawing.node(node, [number(output)]);
        }
        drawing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diamond() -> Drawing {
        let mut drawing = Drawing::new();
        let named = |name: &str| DrawnNode { lines: vec![name.to_owned()], ..DrawnNode::default() };
        let top = drawing.node(named("x < \"y\" & z"), []);
        let (left, right) = (drawing.node(named("left"), [top]), drawing.node(named("right"), [top]));
        let far = drawing.node(named("far"), [left]);
        drawing.node(named("end"), [far, right, top]);
        drawing
    }

    #[test]
    fn dot_and_svg_hold_every_node_and_edge_and_escape_their_text() {
        let drawing = diamond();
        let dot = drawing.to_dot();
        assert_eq!(dot.matches(" -> ").count(), 6);
        assert!(dot.contains(r#"label="x < \"y\" & z""#), "{dot}");
        let svg = drawing.to_svg();
        assert_eq!((svg.matches("<rect class=").count(), svg.matches("<path class=").count()), (5, 6));
        assert!(svg.contains("x &lt; &quot;y&quot; &amp; z"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn nodes_of_a_layer_do_not_overlap_and_edges_go_down() {
        let mut drawing = Drawing::new();
        let wide = |n: usize| DrawnNode { lines: vec!["m".repeat(n)], ..DrawnNode::default() };
        for i in 0..40usize {
            // A fixed tangle.
            drawing.node(wide(3 + i % 9), (0..3).filter_map(|k| (i * (k + 3) / 7).checked_sub(k + 1)));
        }
        let sizes = svg::sizes(&drawing);
        let placed = layout::place(&sizes, drawing.edges());
        for a in 0..40 {
            for b in 0..a {
                let apart = (placed.x[a] - placed.x[b]).abs() * 2.0 >= sizes[a].0 + sizes[b].0
                    || (placed.y[a] - placed.y[b]).abs() * 2.0 >= sizes[a].1 + sizes[b].1;
                assert!(apart, "{a} and {b} overlap");
            }
        }
        for &(from, to) in drawing.edges() {
            assert!(placed.y[from] < placed.y[to], "{from} lies above {to}");
        }
    }

    #[test]
    fn an_unknown_ending_and_an_unwritable_file_are_errors() {
        let drawing = diamond();
        assert!(matches!(drawing.save("tape.png"), Err(Error::InvalidArgument { op: "save", .. })));
        assert!(matches!(drawing.save("/no/such/folder/tape.svg"), Err(Error::InvalidArgument { .. })));
        assert!(Drawing::new().to_svg().contains("</svg>"));
        assert_eq!((bytes_in_words(1023), bytes_in_words(1536)), ("1023 B".to_owned(), "1.5 KiB".to_owned()));
    }
}
