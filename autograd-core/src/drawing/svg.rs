//! A drawing as SVG.

use super::{Drawing, Look, layout};
use std::fmt::Write;

/// The advance of a monospace character of 12 pixels, and the height of a line.
const CHARACTER: f64 = 7.3;
const LINE: f64 = 16.0;
const PADDING: f64 = 8.0;

/// The size of each node's box.
pub(super) fn sizes(drawing: &Drawing) -> Vec<(f64, f64)> {
    let size = |node: &super::DrawnNode| {
        let longest = node.lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
        (longest as f64 * CHARACTER + 2.0 * PADDING, node.lines.len() as f64 * LINE + 2.0 * PADDING)
    };
    drawing.nodes().iter().map(size).collect()
}

/// The picture.
pub(super) fn render(drawing: &Drawing) -> String {
    let sizes = sizes(drawing);
    let placed = layout::place(&sizes, drawing.edges());
    let (width, height) = (placed.width.ceil(), placed.height.ceil());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"monospace\" font-size=\"12\">\n"
    );
    svg.push_str(STYLE);
    for route in &placed.routes {
        let _ = write!(svg, "<path class=\"edge\" marker-end=\"url(#arrow)\" d=\"");
        for (i, &(x, y)) in route.iter().enumerate() {
            let _ = match i.checked_sub(1).map(|before| route[before]) {
                None => write!(svg, "M{x:.1} {y:.1}"),
                Some((from, above)) => {
                    let middle = (above + y) / 2.0;
                    write!(svg, " C{from:.1} {middle:.1} {x:.1} {middle:.1} {x:.1} {y:.1}")
                }
            };
        }
        svg.push_str("\"/>\n");
    }
    for (id, node) in drawing.nodes().iter().enumerate() {
        let (w, h) = sizes[id];
        let (x, y) = (placed.x[id] - w / 2.0, placed.y[id] - h / 2.0);
        let class = match node.look {
            Look::Step => "step",
            Look::Input => "input",
            Look::Output => "output",
            Look::Faded => "faded",
            Look::Alarming => "alarming",
        };
        let _ = writeln!(svg, "<g><title>{}</title>", escaped(&node.hint));
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"4\"/>"
        );
        for (i, line) in node.lines.iter().enumerate() {
            let weight = if i == 0 { " font-weight=\"bold\"" } else { "" };
            let (x, y) = (x + PADDING, y + PADDING + LINE * (i as f64 + 0.75));
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\"{weight}>{}</text>", escaped(line));
        }
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// Colours that keep their distance for colour-blind eyes.
const STYLE: &str = "<style>rect{fill:#fff;stroke:#555}.input{fill:#dbe9f6;stroke:#2b6ca3;stroke-width:2}\
.output{fill:#e8f3df;stroke:#4c8c2b;stroke-width:2}.faded{fill:#f2f2f2;stroke:#aaa;stroke-dasharray:4 3}\
.alarming{fill:#f7c6c5;stroke:#b3261e;stroke-width:2}.edge{fill:none;stroke:#777}</style>\n\
<rect width=\"100%\" height=\"100%\" style=\"fill:#fff;stroke:none\"/>\n\
<defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" \
orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#777\"/></marker></defs>\n";

fn escaped(text: &str) -> String {
    let pairs = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(*from, to))
}
