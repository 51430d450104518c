//! The charts of a report: bars with intervals, the ratio track, curves.

use super::format::number;
use super::svg::{Anchor, Svg};
use crate::schema::Better;

/// One bar with its 95 % interval.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    /// Index of the series: its colour and pattern.
    pub(super) series: usize,
}

/// Horizontal bars from zero, one below the other, with whiskers. The figures stand beside it as text.
pub(super) fn bars(unit: &str, bars: &[Bar]) -> String {
    const WIDTH: f64 = 240.0;
    const STEP: f64 = 15.0;
    let top = bars.iter().map(|bar| bar.value.max(bar.high)).fold(0.0_f64, f64::max);
    let scale = |value: f64| {
        if top > 0.0 {
            value.max(0.0) / top * (WIDTH - 2.0)
        } else {
            0.0
        }
    };
    let spoken: Vec<String> = bars
        .iter()
        .map(|bar| {
            format!(
                "{}: {} {unit}, 95 % interval {} to {}",
                bar.label,
                number(bar.value),
                number(bar.low),
                number(bar.high)
            )
        })
        .collect();
    let mut rows = 0.0;
    let height = STEP * bars.iter().map(|_| 1.0).sum::<f64>() + 2.0;
    let mut svg = Svg::new("bars", WIDTH, height, &spoken.join("; "));
    for bar in bars {
        let y = rows * STEP + 2.0;
        rows += 1.0;
        svg.rect(
            &format!("bar b{}", bar.series % 4),
            0.0,
            y,
            scale(bar.value),
            STEP - 4.0,
        );
        let middle = y + (STEP - 4.0) / 2.0;
        let (low, high) = (scale(bar.low), scale(bar.high));
        svg.line("whisker", (low, middle), (high, middle));
        svg.line("whisker", (low, middle - 3.0), (low, middle + 3.0));
        svg.line("whisker", (high, middle - 3.0), (high, middle + 3.0));
    }
    svg.finish(true)
}

/// The ratio on a logarithmic track from four times worse to four times better, with the margin of sameness as a band.
/// Right is better whatever the metric's direction.
pub(super) fn ratio_track(better: Better, ratio: f64, interval: (f64, f64), margin: f64, words: &str) -> String {
    const WIDTH: f64 = 200.0;
    const HEIGHT: f64 = 26.0;
    let goodness = |ratio: f64| match better {
        Better::Higher => ratio,
        Better::Lower => 1.0 / ratio,
    };
    let x = |value: f64| {
        let log = if value > 0.0 && value.is_finite() {
            value.log(4.0)
        } else {
            0.0
        };
        WIDTH / 2.0 + log.clamp(-1.0, 1.0) * (WIDTH / 2.0 - 8.0)
    };
    let mut svg = Svg::new("track", WIDTH, HEIGHT, &format!("Ratio {} ({words})", number(ratio)));
    let middle = HEIGHT / 2.0;
    let margin = margin.clamp(0.0, 0.9);
    svg.rect(
        "band",
        x(1.0 - margin),
        3.0,
        x(1.0 + margin) - x(1.0 - margin),
        HEIGHT - 6.0,
    );
    svg.line("rail", (4.0, middle), (WIDTH - 4.0, middle));
    svg.line("one", (x(1.0), 2.0), (x(1.0), HEIGHT - 2.0));
    let (a, b) = (x(goodness(interval.0)), x(goodness(interval.1)));
    svg.line("interval", (a.min(b), middle), (a.max(b), middle));
    let centre = goodness(ratio);
    let shape = if !(0.25..=4.0).contains(&centre) { 2 } else { 3 };
    svg.marker("dot", shape, (x(centre), middle));
    svg.finish(false)
}

/// A curve of a chart.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// How the axes are drawn. `x` values of the curves are already in axis space; the ticks name them.
#[derive(Debug, Clone)]
pub(super) struct Axes {
    pub(super) title: String,
    pub(super) x_name: String,
    pub(super) y_name: String,
    pub(super) x_ticks: Vec<(f64, String)>,
    pub(super) y_log: bool,
}

/// Curves with axes, grid and a key. The series differ in colour, dash and marker.
pub(super) fn curves(axes: &Axes, curves: &[Curve]) -> String {
    const WIDTH: f64 = 440.0;
    const PLOT: f64 = 190.0;
    const LEFT: f64 = 56.0;
    const TOP: f64 = 26.0;
    const KEY: f64 = 18.0;
    let right = WIDTH - 14.0;
    let bottom = TOP + PLOT;
    let keys: f64 = curves.iter().map(|_| KEY).sum();
    let spoken: Vec<String> = curves
        .iter()
        .map(|curve| {
            let ends = match (curve.points.first(), curve.points.last()) {
                (Some(first), Some(last)) => format!("from {} to {}", number(first.1), number(last.1)),
                _ => "no points".to_owned(),
            };
            format!("{} {ends} {}", curve.label, axes.y_name)
        })
        .collect();
    let label = format!(
        "{}, {} over {}: {}",
        axes.title,
        axes.y_name,
        axes.x_name,
        spoken.join("; ")
    );
    let mut svg = Svg::new("chart", WIDTH, bottom + 44.0 + keys, &label);

    let values = || {
        curves
            .iter()
            .flat_map(|curve| curve.points.iter().map(|point| point.1))
            .filter(|y| y.is_finite())
    };
    let log = axes.y_log && values().all(|y| y > 0.0);
    let max = values().fold(0.0_f64, f64::max);
    let min = values().fold(f64::INFINITY, f64::min);
    let ticks = if log { log_ticks(min, max) } else { linear_ticks(max) };
    let (low, high) = (
        ticks.first().copied().unwrap_or(0.0),
        ticks.last().copied().unwrap_or(1.0),
    );
    let y = |value: f64| {
        let share = if log {
            (value.ln() - low.ln()) / (high.ln() - low.ln()).max(f64::EPSILON)
        } else {
            (value - low) / (high - low).max(f64::EPSILON)
        };
        bottom - share.clamp(0.0, 1.0) * PLOT
    };
    let x_low = axes.x_ticks.iter().map(|tick| tick.0).fold(f64::INFINITY, f64::min);
    let x_high = axes.x_ticks.iter().map(|tick| tick.0).fold(f64::NEG_INFINITY, f64::max);
    let x = |value: f64| {
        let share = (value - x_low) / (x_high - x_low).max(f64::EPSILON);
        LEFT + 8.0 + share.clamp(0.0, 1.0) * (right - LEFT - 16.0)
    };

    svg.text("axis", Anchor::Start, (0.0, 12.0), &axes.y_name);
    for tick in &ticks {
        svg.line("grid", (LEFT, y(*tick)), (right, y(*tick)));
        svg.text("tick", Anchor::End, (LEFT - 6.0, y(*tick) + 4.0), &number(*tick));
    }
    let mut free_from = f64::NEG_INFINITY;
    for (position, text) in &axes.x_ticks {
        let centre = x(*position);
        svg.line("grid", (centre, bottom), (centre, bottom + 4.0));
        let half = text.chars().map(|_| 3.4).sum::<f64>();
        if centre - half > free_from {
            svg.text("tick", Anchor::Middle, (centre, bottom + 17.0), text);
            free_from = centre + half + 4.0;
        }
    }
    svg.text("axis", Anchor::End, (right, bottom + 34.0), &axes.x_name);
    let mut key_y = bottom + 50.0;
    for (index, curve) in curves.iter().enumerate() {
        let class = format!("curve c{}", index % 4);
        let mark = format!("mark m{}", index % 4);
        let points: Vec<(f64, f64)> = curve.points.iter().map(|point| (x(point.0), y(point.1))).collect();
        svg.polyline(&class, &points);
        for point in &points {
            svg.marker(&mark, index, *point);
        }
        svg.line(&class, (LEFT, key_y - 4.0), (LEFT + 28.0, key_y - 4.0));
        svg.marker(&mark, index, (LEFT + 14.0, key_y - 4.0));
        svg.text("key", Anchor::Start, (LEFT + 36.0, key_y), &curve.label);
        key_y += KEY;
    }
    svg.finish(false)
}

/// 1, 2, 5 times powers of ten around the values; only the powers where that would be more than seven.
fn log_ticks(min: f64, max: f64) -> Vec<f64> {
    let (mut first, mut last) = (min.log10().floor(), max.log10().ceil());
    if !first.is_finite() || !last.is_finite() {
        (first, last) = (0.0, 1.0);
    }
    if last <= first {
        last = first + 1.0;
    }
    let mut ticks = Vec::new();
    let mut power = first;
    while power <= last {
        for factor in [1.0, 2.0, 5.0] {
            ticks.push(factor * 10_f64.powf(power));
        }
        power += 1.0;
    }
    let start = ticks.iter().rposition(|tick| *tick <= min).unwrap_or(0);
    let end = ticks.iter().position(|tick| *tick >= max).unwrap_or(ticks.len() - 1);
    let mut ticks = ticks[start..=end.max(start)].to_vec();
    if ticks.len() < 2 {
        let only = ticks.first().copied().unwrap_or(1.0);
        ticks = vec![only / 2.0, only, only * 2.0];
    }
    if ticks.len() > 7 {
        ticks = (0..)
            .map(|step| 10_f64.powf(first) * 10_f64.powi(step))
            .take_while(|tick| *tick <= 10_f64.powf(last) * 1.01)
            .collect();
    }
    ticks
}

/// Zero and up to five round steps.
fn linear_ticks(max: f64) -> Vec<f64> {
    if max <= 0.0 || !max.is_finite() {
        return vec![0.0, 1.0];
    }
    let rough = max / 4.0;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough)
        .unwrap_or(10.0 * power);
    let mut ticks = vec![0.0];
    while ticks.last().is_some_and(|last| *last < max) {
        ticks.push(ticks.last().copied().unwrap_or(0.0) + step);
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_cover_the_values_and_are_few() {
        for (min, max) in [(1.0, 1.0), (3.0, 4.0), (0.02, 7e6), (1e-9, 1e9), (f64::INFINITY, 0.0)] {
            let ticks = log_ticks(min, max);
            assert!((2..=20).contains(&ticks.len()), "{ticks:?}");
            if min.is_finite() {
                assert!(
                    ticks[0] <= min && *ticks.last().unwrap_or(&0.0) >= max,
                    "{min}..{max}: {ticks:?}"
                );
            }
        }
        for max in [0.0, 1.0, 7.3, 999.0, 1e12] {
            let ticks = linear_ticks(max);
            assert!(
                (2..=6).contains(&ticks.len()) && *ticks.last().unwrap_or(&0.0) >= max,
                "{max}: {ticks:?}"
            );
        }
    }

    #[test]
    fn the_ratio_track_points_right_for_better_in_both_directions() {
        let dot = |better, ratio| {
            let svg = ratio_track(better, ratio, (ratio * 0.95, ratio * 1.05), 0.03, "w");
            let polygon = svg.split("<polygon").nth(1).unwrap_or_default().to_owned();
            let first = polygon.split("points=\"").nth(1).unwrap_or_default();
            first
                .split(',')
                .next()
                .unwrap_or_default()
                .parse::<f64>()
                .unwrap_or(0.0)
        };
        assert!(dot(Better::Higher, 2.0) > 100.0 && dot(Better::Lower, 0.5) > 100.0);
        assert!(dot(Better::Higher, 0.5) < 100.0 && dot(Better::Lower, 2.0) < 100.0);
    }

    #[test]
    fn degenerate_values_draw_without_breaking_the_markup() {
        let bar = |value| Bar {
            label: "x".to_owned(),
            value,
            low: f64::NAN,
            high: f64::INFINITY,
            series: 0,
        };
        for svg in [bars("u", &[bar(0.0), bar(f64::NAN)]), bars("u", &[])] {
            assert!(!svg.contains("NaN\"") && !svg.contains("inf\""), "{svg}");
        }
    }
}
