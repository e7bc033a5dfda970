//! Colours are legible in light and in dark: contrast as WCAG 2.2 measures it.

use std::collections::HashMap;

const STYLE: &str = include_str!("../../src/report/style.css");

/// The variables of the light and of the dark scheme.
fn schemes() -> [(&'static str, HashMap<String, [u8; 3]>); 2] {
    let (light, rest) = STYLE.split_once("@media (prefers-color-scheme: dark)").unwrap();
    let dark = rest.split("}}").next().unwrap();
    let variables = |css: &str| css.split(['{', ';', '}', '\n']).filter_map(variable).collect();
    [("light", variables(light)), ("dark", variables(dark))]
}

fn variable(declaration: &str) -> Option<(String, [u8; 3])> {
    let (name, hex) = declaration.trim().strip_prefix("--")?.split_once(":#")?;
    let wide: String = if hex.len() == 3 { hex.chars().flat_map(|c| [c, c]).collect() } else { hex.into() };
    let byte = |i: usize| u8::from_str_radix(wide.get(i..i + 2)?, 16).ok();
    Some((name.into(), [byte(0)?, byte(2)?, byte(4)?]))
}

fn luminance(colour: [u8; 3]) -> f64 {
    let linear = |v: u8| {
        let v = f64::from(v) / 255.0;
        if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * linear(colour[0]) + 0.7152 * linear(colour[1]) + 0.0722 * linear(colour[2])
}

fn contrast(a: [u8; 3], b: [u8; 3]) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[test]
fn text_lines_and_squares_stand_out() {
    for (scheme, colours) in schemes() {
        let least = |front: &str, back: &str, limit: f64| {
            let found = contrast(colours[front], colours[back]);
            assert!(found >= limit, "{scheme}: {front} on {back} has contrast {found:.2}, below {limit}");
        };
        for text in ["ink", "soft", "accent", "wrong"] {
            least(text, "card", 4.5);
        }
        least("ink", "page", 4.5);
        least("soft", "page", 4.5);
        least("soft", "wash", 4.5);
        (0..6).for_each(|i| least(&format!("s{i}"), "card", 3.0));
        // Numbers in squares: dark on light steps, light on dark ones (reversed in dark mode).
        (0..9).for_each(|i| least(if i < 4 { "low" } else { "high" }, &format!("h{i}"), 4.5));
        // Steps go one way, so that more connections never look like fewer.
        let steps: Vec<f64> = (0..9).map(|i| luminance(colours[&format!("h{i}")])).collect();
        let up = steps.windows(2).all(|w| w[0] < w[1]);
        let down = steps.windows(2).all(|w| w[0] > w[1]);
        assert!(up || down, "{scheme}: {steps:?}");
    }
}
