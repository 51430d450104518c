//! A few SVG elements with escaped text: what the charts need, and no more.
//!
//! Why not a library: `docs/report.md`, "Charts".

use std::fmt::Write as _;

/// An SVG image under construction. Coordinates are in its own units; one unit is one CSS pixel at full width.
#[derive(Debug)]
pub(super) struct Svg {
    width: f64,
    height: f64,
    class: &'static str,
    label: String,
    body: String,
}

/// Where a text sits on its point.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    /// An empty image. `label` is what a screen reader says in its place.
    pub(super) fn new(class: &'static str, width: f64, height: f64, label: &str) -> Self {
        Self {
            width,
            height,
            class,
            label: label.to_owned(),
            body: String::new(),
        }
    }

    pub(super) fn rect(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64) {
        let _ = write!(
            self.body,
            r#"<rect class="{class}" x="{}" y="{}" width="{}" height="{}"/>"#,
            at(x),
            at(y),
            at(width.max(0.0)),
            at(height.max(0.0))
        );
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = write!(
            self.body,
            r#"<line class="{class}" x1="{}" y1="{}" x2="{}" y2="{}"/>"#,
            at(from.0),
            at(from.1),
            at(to.0),
            at(to.1)
        );
    }

    pub(super) fn polyline(&mut self, class: &str, points: &[(f64, f64)]) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{},{}", at(*x), at(*y))).collect();
        let _ = write!(
            self.body,
            r#"<polyline class="{class}" points="{}"/>"#,
            points.join(" ")
        );
    }

    /// A marker whose shape tells the series without its colour: circle, square, triangle, diamond.
    pub(super) fn marker(&mut self, class: &str, shape: usize, (x, y): (f64, f64)) {
        let path = match shape % 4 {
            0 => {
                let _ = write!(
                    self.body,
                    r#"<circle class="{class}" cx="{}" cy="{}" r="3.5"/>"#,
                    at(x),
                    at(y)
                );
                return;
            }
            1 => [(-3.2, -3.2), (3.2, -3.2), (3.2, 3.2), (-3.2, 3.2)].to_vec(),
            2 => [(0.0, -4.2), (3.9, 3.0), (-3.9, 3.0)].to_vec(),
            _ => [(0.0, -4.4), (4.4, 0.0), (0.0, 4.4), (-4.4, 0.0)].to_vec(),
        };
        let points: Vec<String> = path
            .iter()
            .map(|(dx, dy)| format!("{},{}", at(x + dx), at(y + dy)))
            .collect();
        let _ = write!(self.body, r#"<polygon class="{class}" points="{}"/>"#, points.join(" "));
    }

    pub(super) fn text(&mut self, class: &str, anchor: Anchor, (x, y): (f64, f64), text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = write!(
            self.body,
            r#"<text class="{class}" text-anchor="{anchor}" x="{}" y="{}">{}</text>"#,
            at(x),
            at(y),
            escape(text)
        );
    }

    /// The element. It scales down with its column, never up; with `stretch` it fills the column's width.
    pub(super) fn finish(self, stretch: bool) -> String {
        let aspect = if stretch { r#" preserveAspectRatio="none""# } else { "" };
        format!(
            r#"<svg class="{}" role="img" aria-label="{}" viewBox="0 0 {} {}" width="{}" height="{}"{aspect}>{}</svg>"#,
            self.class,
            escape(&self.label),
            at(self.width),
            at(self.height),
            at(self.width),
            at(self.height),
            self.body
        )
    }
}

/// Text for element content and double-quoted attributes. Characters that XML forbids become U+FFFD.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(printable(c)),
        }
    }
    out
}

/// Replaces what XML 1.0 section 2.2 forbids, and the characters that reorder the text around them.
pub(super) const fn printable(c: char) -> char {
    match c {
        '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => '\u{fffd}',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        _ => c,
    }
}

fn at(value: f64) -> String {
    let value = if value.is_finite() { value } else { 0.0 };
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_text_in_content_and_attributes() {
        let mut svg = Svg::new("chart", 10.0, 10.0, "\" onload=\"alert(1)");
        svg.text("label", Anchor::Start, (1.0, 1.0), "</text><script>alert(1)</script>");
        let text = svg.finish(false);
        assert!(!text.contains("<script"));
        assert!(text.contains("aria-label=\"&quot; onload=&quot;alert(1)\""));
        let mut reader = quick_xml::Reader::from_str(&text);
        loop {
            if let quick_xml::events::Event::Eof = reader.read_event().expect("well-formed") {
                break;
            }
        }
    }

    #[test]
    fn control_and_bidi_characters_are_replaced_and_numbers_stay_finite() {
        assert_eq!(escape("a\0b\u{202e}c\n"), "a\u{fffd}b\u{fffd}c\n");
        assert_eq!(at(f64::INFINITY), "0");
        assert_eq!(at(1.50), "1.5");
    }
}
