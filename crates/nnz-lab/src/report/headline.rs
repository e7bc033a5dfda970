//! Findings of the run, in plain words computed from its numbers.

use super::format::{accuracy, count, points, seconds, share, significant, times};
use super::frame::Tile;
use super::view::View;
use crate::run::record::ArmRecord;

/// One sentence: gains and losses against the dense network.
pub(super) fn lead(view: &View) -> String {
    let arm = view.method;
    let test = format!("the {} test {}", count(view.record.data.test as u64), view.rows());
    let read = match view.classes() {
        true => format!("{} read {} of {test} correctly", arm.name, view.accuracy(arm)),
        false => format!("{} explained {} of the variance of {test}", arm.name, view.accuracy(arm)),
    };
    let Some(dense) = view.control("dense") else {
        let size = if arm.density >= 0.9995 { "all its".into() } else { format!("{} of its", share(arm.density)) };
        let nothing = if arm.name == "dense" { "" } else { " There is no dense arm to compare it with." };
        return format!("With {size} weights ({}), {read}.{nothing}", count(arm.nonzeros as u64));
    };
    let weights = if arm.nonzeros == dense.nonzeros {
        format!("With all {} weights", count(arm.nonzeros as u64))
    } else {
        format!(
            "With {} weights where the dense network has {} ({})",
            count(arm.nonzeros as u64),
            count(dense.nonzeros as u64),
            share(arm.nonzeros as f64 / dense.nonzeros as f64)
        )
    };
    format!("{weights}, {read}, {}; {}.", against(view, dense), costs(arm, dense))
}

/// `1.02 percentage points below the dense network (98.36%)`.
fn against(view: &View, dense: &ArmRecord) -> String {
    let Some(d) = view.difference(dense) else {
        return "which cannot be compared with the dense network, as a measure is missing".into();
    };
    let size = points(d.mean, view.decimals);
    let theirs = accuracy(dense.test_accuracy, view.decimals);
    match (d.shown(), d.mean) {
        (Some(false), _) => format!("not measurably different from the dense network ({theirs})"),
        _ if size == points(0.0, view.decimals) => format!("the same as the dense network ({theirs})"),
        (_, m) if m < 0.0 => format!("{size} percentage points below the dense network ({theirs})"),
        _ => format!("{size} percentage points above the dense network ({theirs})"),
    }
}

/// `its weights take 10× less memory, its optimizer state 20× less, and an epoch is 2.0× faster`.
fn costs(arm: &ArmRecord, dense: &ArmRecord) -> String {
    let amount = |ours: usize, theirs: usize| match times(ours as f64, theirs as f64, "less", "more") {
        Some(t) if t == "same" => "as much".to_string(),
        Some(t) => t,
        None => "memory that cannot be compared".into(),
    };
    let time = match times(arm.seconds_per_epoch, dense.seconds_per_epoch, "faster", "slower") {
        Some(t) if t == "same" => "an epoch takes as long".to_string(),
        Some(t) => format!("an epoch is {t}"),
        None => "the time of an epoch is unknown".into(),
    };
    let weights = amount(arm.weight_bytes, dense.weight_bytes);
    let state = amount(arm.optimizer_bytes, dense.optimizer_bytes);
    let weights =
        weights.replace("less", "less memory").replace("more", "more memory").replace("as much", "as much memory");
    format!("its weights take {weights}, its optimizer state {state}, and {time}")
}

/// One question a control answers.
pub(super) struct Answer {
    pub question: String,
    /// `Yes.`, `No.`, `No difference shown.`: what readers look for first.
    pub verdict: String,
    pub reason: String,
}

/// What each control shows about the method, in the order of the arms.
pub(super) fn answers(view: &View) -> Vec<Answer> {
    view.record.arms[1..].iter().filter_map(|control| answer(view, control)).collect()
}

fn answer(view: &View, control: &ArmRecord) -> Option<Answer> {
    let name = &view.method.name;
    let better = if view.classes() { "more accurate" } else { "better" };
    // (question, whether "yes" means that the method is better)
    let (question, yes_if_better) = match control.name.as_str() {
        "static-random" => (format!("Did {name} find better connections than chance?"), true),
        "small-dense" => ("Would a small dense network with as many weights do as well?".to_string(), false),
        "dense" => (format!("Is the dense network {better}?"), false),
        other => (format!("Is {name} {better} than {other}?"), true),
    };
    let d = view.difference(control)?;
    let zero = points(d.mean, view.decimals) == points(0.0, view.decimals);
    let (size, theirs) = (points(d.mean, view.decimals), view.accuracy(control));
    let side = if d.mean < 0.0 { "below" } else { "above" };
    let evidence = match d.interval {
        Some((half, n)) => format!("; 95% interval over {n} paired seeds ±{}", points(half, view.decimals.max(2))),
        None => String::new(),
    };
    let reason = if zero {
        format!("{name} and {} are equal ({theirs}{evidence}).", control.name)
    } else {
        format!("{name} is {size} points {side} {} ({theirs}{evidence}).", control.name)
    };
    let verdict = match d.shown() {
        Some(false) => "No difference shown.".into(),
        shown => {
            let yes = !zero && (d.mean > 0.0) == yes_if_better;
            let word = if zero {
                "No difference"
            } else if yes {
                "Yes"
            } else {
                "No"
            };
            format!("{word}{}", if shown.is_none() { ", on one seed." } else { "." })
        }
    };
    Some(Answer { question, verdict, reason })
}

/// How far chance alone may move the numbers.
pub(super) fn caution(view: &View) -> String {
    let n = view.method.seeds.len();
    let over = match n {
        0 => "No seed finished.".to_string(),
        1 => "One seed was trained; another would give other numbers. Add --seeds 5 to see how much they vary.".into(),
        n => {
            let unsure =
                view.record.arms[1..].iter().any(|a| view.difference(a).and_then(|d| d.shown()) == Some(false));
            let more = if n < 8 && unsure {
                " So few seeds can only show large differences; --seeds 10 narrows the intervals."
            } else {
                ""
            };
            format!(
                "{} are means over {n} seeds, ± their 95% interval (Student's t); pictures show the first seed.{more}",
                if view.classes() { "Accuracies" } else { "Shares of the variance" }
            )
        }
    };
    let (p, rows) = (view.method.test_accuracy, view.record.data.test as f64);
    let half = 196.0 * (p * (1.0 - p) / rows).sqrt();
    if !(half.is_finite() && half > 0.0 && view.classes()) {
        return over;
    }
    let shared = ", though less for differences, since all arms read the same ones";
    format!(
        "{over} A test split of {} {} by itself leaves about ±{} points open for each accuracy{}.",
        count(view.record.data.test as u64),
        view.rows(),
        significant(half, 1),
        if view.record.arms.len() > 1 { shared } else { "" }
    )
}

/// The numbers of the method arm that readers ask for first.
pub(super) fn tiles(view: &View) -> Vec<Tile> {
    let (arm, dense) = (view.method, view.control("dense"));
    let note = |f: &dyn Fn(&ArmRecord) -> Option<String>, otherwise: String| dense.and_then(f).unwrap_or(otherwise);
    let ratio = |ours: f64, theirs: f64, below: &str, above: &str| match times(ours, theirs, below, above) {
        Some(t) if t == "same" => Some("same as dense".to_string()),
        t => t.map(|t| format!("{t} than dense")),
    };
    let data = &view.record.data;
    vec![
        Tile {
            label: view.measure(),
            value: view.accuracy(arm),
            note: note(
                &|d| Some(format!("dense: {}", view.accuracy(d))),
                format!("of {} {}", count(data.test as u64), view.rows()),
            ),
        },
        Tile {
            label: "Weights kept",
            value: count(arm.nonzeros as u64),
            note: format!("{} of {}", share(arm.nonzeros as f64 / view.entries() as f64), count(view.entries())),
        },
        Tile {
            label: "Memory of weights",
            value: super::format::bytes(arm.weight_bytes as u64),
            note: note(
                &|d| ratio(arm.weight_bytes as f64, d.weight_bytes as f64, "less", "more"),
                "indices and biases included".into(),
            ),
        },
        Tile {
            label: "Optimizer state",
            value: super::format::bytes(arm.optimizer_bytes as u64),
            note: note(
                &|d| ratio(arm.optimizer_bytes as f64, d.optimizer_bytes as f64, "less", "more"),
                "while training".into(),
            ),
        },
        Tile {
            label: "Time an epoch",
            value: seconds(arm.seconds_per_epoch),
            note: note(&|d| ratio(arm.seconds_per_epoch, d.seconds_per_epoch, "faster", "slower"), "median".into()),
        },
    ]
}
