//! Contrast of the page's colours (WCAG 2.2, 1.4.3 and 1.4.11), computed from the style sheet itself.

use std::collections::BTreeMap;

const STYLE: &str = include_str!("../src/render/templates/style.css");

/// The colours of the first block after `start`.
fn colours(start: &str) -> BTreeMap<String, [f64; 3]> {
    let block = STYLE
        .split(start)
        .nth(1)
        .and_then(|rest| rest.split('}').next())
        .expect("a block of colours");
    block
        .split(';')
        .filter_map(|line| {
            let (name, value) = line.rsplit_once("--")?.1.split_once(':')?;
            let hex = value.trim().strip_prefix('#')?;
            let channel = |index: usize| {
                let value = f64::from(u8::from_str_radix(&hex[index..index + 2], 16).expect("six hex digits")) / 255.0;
                if value <= 0.04045 {
                    value / 12.92
                } else {
                    ((value + 0.055) / 1.055).powf(2.4)
                }
            };
            Some((name.to_owned(), [channel(0), channel(2), channel(4)]))
        })
        .collect()
}

fn contrast(a: [f64; 3], b: [f64; 3]) -> f64 {
    let luminance = |[r, g, b]: [f64; 3]| 0.2126 * r + 0.7152 * g + 0.0722 * b;
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

fn check(theme: &str, colours: &BTreeMap<String, [f64; 3]>) {
    let text = [
        ("ink", "page"),
        ("ink", "panel"),
        ("muted", "page"),
        ("muted", "panel"),
        ("link", "page"),
        ("good", "good-bg"),
        ("warn", "warn-bg"),
        ("bad", "bad-bg"),
        ("quiet", "quiet-bg"),
        ("ink", "good-bg"),
        ("ink", "warn-bg"),
        ("ink", "bad-bg"),
    ];
    for (front, back) in text {
        let ratio = contrast(colours[front], colours[back]);
        assert!(ratio >= 4.5, "{theme}: text {front} on {back} is {ratio:.2}:1");
    }
    for graphic in ["base", "candidate", "third", "fourth", "good", "warn", "bad"] {
        let ratio = contrast(colours[graphic], colours["page"]);
        assert!(ratio >= 3.0, "{theme}: graphic {graphic} on page is {ratio:.2}:1");
    }
}

#[test]
fn text_has_four_and_a_half_to_one_and_graphics_three_to_one_in_both_themes_and_in_print() {
    let light = colours(":root {");
    let dark = colours("prefers-color-scheme: dark) {\n  :root {");
    let print = colours("@media print {\n  :root {");
    assert_eq!(light.keys().collect::<Vec<_>>(), dark.keys().collect::<Vec<_>>());
    assert_eq!(light, print, "print is the light theme");
    check("light", &light);
    check("dark", &dark);
}

#[test]
fn no_rule_outside_the_palettes_names_a_colour() {
    let rules: Vec<&str> = STYLE
        .lines()
        .filter(|line| line.contains('#') && !line.trim_start().starts_with("--"))
        .filter(|line| !line.contains("details-content") && !line.contains("background: #000"))
        .collect();
    assert!(rules.is_empty(), "{rules:?}");
}
