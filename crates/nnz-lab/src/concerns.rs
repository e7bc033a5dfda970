//! What a table of results should not leave unsaid: methods that end below a random mask, and layers that lost their connections.

use crate::run::record::{ArmRecord, LayerRecord, RunRecord};
use crate::{Recipe, summarize};

/// The random mask that methods are compared with.
pub(crate) const RANDOM: &str = "static-random";
/// Arms that nothing is said about: they are what others are compared with.
const CONTROLS: [&str; 3] = ["dense", "small-dense", RANDOM];
/// Smaller differences are said only if seeds show them.
const POINT: f64 = 0.01;

impl RunRecord {
    /// What its table should not leave unsaid, in sentences without a full stop.
    pub fn concerns(&self) -> Vec<String> {
        let recipe = Recipe::parse(&self.recipe, "").ok();
        let global = |name: &str| {
            let options = recipe.as_ref()?.arms.iter().find(|a| a.name == name)?.options.get("distribution")?;
            Some(options.as_str() == Some("global"))
        };
        let random = self.arms.iter().find(|a| a.name == RANDOM);
        let of = |arm: &ArmRecord| {
            let pairs: Vec<(f64, f64)> = random
                .into_iter()
                .flat_map(|r| &r.seeds)
                .filter_map(|r| Some((arm.seeds.iter().find(|s| s.seed == r.seed)?.test_accuracy, r.test_accuracy)))
                .collect();
            let below = below_random(&arm.name, &pairs);
            let layers = arm.seeds.first().map_or(&[][..], |s| &s.layers);
            below.into_iter().chain(starved(&arm.name, layers, global(&arm.name) == Some(true)))
        };
        self.arms.iter().filter(|a| !CONTROLS.contains(&&*a.name)).flat_map(of).collect()
    }
}

/// Says that a method ends below the random mask; `pairs` are both measures of every seed.
pub(crate) fn below_random(arm: &str, pairs: &[(f64, f64)]) -> Option<String> {
    if CONTROLS.contains(&arm) {
        return None;
    }
    let d = summarize(&pairs.iter().map(|(ours, theirs)| ours - theirs).collect::<Vec<_>>());
    let shown = d.half_width.map(|half| d.mean.abs() > half);
    if !(d.mean <= -POINT && d.mean.is_finite() || d.mean < 0.0 && shown == Some(true)) {
        return None;
    }
    let seeds = match (pairs.len(), shown) {
        (1, _) => ", on one seed".into(),
        (n, Some(true)) => format!(", over {n} seeds"),
        (n, _) => format!(", though {n} seeds vary too much to show it"),
    };
    Some(format!(
        "{arm} ends {:.2} points below {RANDOM}, a random mask of the same density{seeds}: what it learned about which \
         connections matter did not pay; more steps (--epochs, a smaller --batch) may help",
        -100.0 * d.mean
    ))
}

/// Says which layers of a network have too few connections to pass anything on. `global`: whether one threshold decided over all
/// layers.
pub(crate) fn starved(arm: &str, layers: &[LayerRecord], global: bool) -> Vec<String> {
    if CONTROLS.contains(&arm) {
        return Vec::new();
    }
    let one = |l: &LayerRecord| {
        let silent = l.fan_in.iter().filter(|d| **d == 0).count();
        if !l.prunable || l.rows == 0 || 2 * silent < l.rows {
            return None;
        }
        let left = match l.nonzeros {
            0 => format!("{arm} left {} no connection: nothing of the input passes it", l.name),
            n => format!(
                "{arm} left {} {n} of {} connections, and {silent} of its {} outputs without input",
                l.name,
                l.rows.saturating_mul(l.cols),
                l.rows
            ),
        };
        let help = if global {
            "; one threshold for all layers did that, `nnz train … --distribution erk` shares the density between them"
        } else {
            ""
        };
        Some(left + help)
    };
    layers.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_below_the_random_mask_is_told_and_the_controls_are_not() {
        let said = |pairs: &[(f64, f64)]| below_random("gmp", pairs).unwrap_or_default();
        assert!(
            said(&[(0.5, 0.625)])
                .contains("12.50 points below static-random, a random mask of the same density, on one seed")
        );
        assert!(said(&[(0.50, 0.60), (0.51, 0.61), (0.52, 0.62)]).contains("over 3 seeds"));
        assert!(said(&[(0.5, 0.9), (0.6, 0.61)]).contains("vary too much"));
        // Seeds that agree show small differences, too; chance alone is not told.
        assert!(!said(&[(0.900, 0.905), (0.901, 0.906), (0.902, 0.907)]).is_empty());
        for quiet in [&[(0.9, 0.9)][..], &[(0.95, 0.9)], &[(0.900, 0.905)], &[(0.9, 0.91), (0.91, 0.905)], &[]] {
            assert_eq!(said(quiet), "", "{quiet:?}");
        }
        assert_eq!(below_random("small-dense", &[(0.1, 0.9)]), None);
    }

    #[test]
    fn layers_without_connections_are_told() {
        let layer = |fan_in: &[u32], prunable| LayerRecord {
            name: "fc2.weight".into(),
            rows: fan_in.len(),
            cols: 10,
            nonzeros: fan_in.iter().sum::<u32>() as usize,
            prunable,
            storage: "sparse".into(),
            bytes: 0,
            fan_in: fan_in.to_vec(),
            fan_out: Vec::new(),
        };
        let said = |l: LayerRecord, global| starved("magnitude", &[l], global).concat();
        assert!(said(layer(&[0, 0, 0, 0], true), false).contains("left fc2.weight no connection"));
        let few = said(layer(&[0, 2, 0, 0], true), true);
        assert!(
            few.contains("2 of 40 connections, and 3 of its 4 outputs") && few.contains("--distribution erk"),
            "{few}"
        );
        assert!(!said(layer(&[0, 2, 0, 0], true), false).contains("--distribution"));
        assert_eq!(said(layer(&[1, 2, 0, 3], true), true) + &said(layer(&[0, 0], false), true), "");
        assert!(starved("static-random", &[layer(&[0, 0], true)], true).is_empty());
    }
}
