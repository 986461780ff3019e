//! The page: a row for each digit, a column for each method.

use super::Result;
use super::methods::{Explained, Map};
use autograd_interpret::picture::{HeatMap, Palette, Picture, Series, escape, grid};
use std::fmt::Write;

/// Pixels of the page for each pixel of an image.
const ZOOM: u32 = 4;

const STYLE: &str = "body{font:14px/1.4 system-ui,sans-serif;margin:32px;color:#222;background:#fff}\
h1{font-size:22px;margin:0 0 8px}p{max-width:860px}table{border-collapse:collapse;margin-top:16px}\
th{font-weight:600;padding:6px;text-align:center;vertical-align:bottom}\
td{padding:6px;text-align:center;vertical-align:top;border-top:1px solid #ddd}\
td small{display:block;color:#555;font-size:11px}img{image-rendering:pixelated;border:1px solid #ccc}\
svg{display:block;margin:4px auto 0;background:#f6f6f6}.wrong{color:#b00}\
.legend{display:inline-flex;align-items:center;gap:8px;margin-right:32px}\
.legend i{display:inline-block;width:160px;height:12px;border:1px solid #ccc}";

/// A strip of a palette's colours from one number to another, between two words.
fn legend(palette: Palette, from: f64, low: &str, high: &str) -> String {
    let colours: Vec<String> =
        (0..=16).map(|i| palette.css(from + (1.0 - from) * f64::from(i) / 16.0)).collect();
    let colours = colours.join(",");
    format!(
        "<span class=\"legend\">{low}<i style=\"background:linear-gradient(90deg,{colours})\"></i>{high}</span>"
    )
}

/// A map as a picture: signed ones blue and red around white, sizes from dark to bright.
fn picture(map: &Map) -> Result<Picture> {
    let palette = if map.signed { Palette::Diverging } else { Palette::Heat };
    Ok(HeatMap::new().palette(palette).render(&map.values)?.enlarged(ZOOM))
}

fn image(digit: &Explained) -> Result<Picture> {
    Ok(HeatMap::new().palette(Palette::Ink).scale(1.0).render(&digit.image)?.enlarged(ZOOM))
}

/// All pictures as one.
pub(crate) fn sheet(explained: &[Explained]) -> Result<Picture> {
    let row = |digit: &Explained| -> Result<Vec<Picture>> {
        let maps = digit.maps.iter().map(picture);
        std::iter::once(image(digit)).chain(maps).collect()
    };
    Ok(grid(&explained.iter().map(row).collect::<Result<Vec<_>>>()?, 6))
}

/// The page.
pub(crate) fn html(explained: &[Explained]) -> Result<String> {
    let mut page = format!(
        "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\"><title>Ten digits explained</title><style>{STYLE}</style>\
<h1>What the net's answers rest on</h1>\
<p>Each map belongs to the logit of the image's own digit, and has a scale of its own: full colour is what one pixel in \
a hundred exceeds. <b>delta</b> is by how much the contributions miss the \
change of the logit from an empty image (for relevance: the logit itself). The curve is the digit's probability, \
from 0 at the bottom to 1 at the top, while pixels are taken away, the most important first; <b>area</b> is its mean: \
the faster it falls, the better the method knew. GradCAM is often drawn by its positive part alone; here it keeps its \
sign, and <b>no positive evidence</b> says that this part would be empty.</p><p>{}{}</p><table><tr><th>image</th>",
        legend(Palette::Diverging, -1.0, "against the digit", "for it"),
        legend(Palette::Heat, 0.0, "no effect", "most effect, of either sign"),
    );
    for map in explained.first().map_or(&[][..], |digit| &digit.maps) {
        write!(page, "<th>{}</th>", escape(map.method))?;
    }
    page.push_str("</tr>");
    for digit in explained {
        let class = if digit.answer == digit.label { "" } else { " class=\"wrong\"" };
        let answer = format!("{} with {:.1} %", digit.answer, 100.0 * digit.probability);
        let alt = format!("an image of a {}", digit.label);
        write!(page, "<tr><td>{}<small{class}>read as {answer}</small></td>", image(digit)?.html(&alt)?)?;
        for map in &digit.maps {
            let alt = format!("{} of the {}", map.method, digit.label);
            let delta = match map.delta {
                Some((delta, steps)) if steps > 1 => format!("delta {delta:.1e}, {steps} steps"),
                Some((delta, _)) => format!("delta {delta:.1e}"),
                None => "no delta".to_owned(),
            };
            let curve = Series::new().range(0.0, 1.0).svg(&map.deletion, 28 * ZOOM, 36)?;
            let note = if map.nothing_for { "<small><b>no positive evidence</b></small>" } else { "" };
            let (map, area) = (picture(map)?.html(&alt)?, map.area);
            write!(page, "<td>{map}<small>{delta}</small>{note}{curve}<small>area {area:.3}</small></td>")?;
        }
        page.push_str("</tr>");
    }
    let mean = |method: usize| {
        explained.iter().map(|digit| digit.maps[method].area).sum::<f64>() / explained.len() as f64
    };
    page.push_str("<tr><td><small>mean area</small></td>");
    for method in 0..explained.first().map_or(0, |digit| digit.maps.len()) {
        write!(page, "<td>{:.3}</td>", mean(method))?;
    }
    page.push_str("</tr></table></html>");
    Ok(page)
}
