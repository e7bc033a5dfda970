//! How a sentence encoder pools the vectors of its tokens, as its folder says: `modules.json` lists the steps after the
//! transformer, `1_Pooling/config.json` the kind of pooling.

use super::*;

/// A kind of pooling.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    First,
    Mean,
    Most,
    /// The sum divided by the root of the number of tokens.
    Root,
}

/// Steps after the transformer.
pub(super) struct Pooling {
    ways: Vec<Way>,
    /// Whether the vector is normalized to unit length.
    unit: bool,
    /// Longest sequence, if the folder gives one.
    pub most: Option<usize>,
}

fn json(path: &std::path::Path) -> Result<Option<serde_json::Value>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot read: {e}")))?;
    serde_json::from_slice(&text).map(Some).map_err(|e| Error::file(path, e))
}

impl Pooling {
    /// Reads the folder of an archive; the mean at unit length if it says nothing.
    pub fn of(archive: &Archive) -> Result<Self> {
        let plain = Self { ways: vec![Way::Mean], unit: true, most: None };
        let list = archive.path.join("modules.json");
        let most = json(&archive.path.join("sentence_bert_config.json"))?;
        let most = most.and_then(|c| Some(c["max_seq_length"].as_u64()? as usize)).filter(|&n| n > 0);
        let Some(modules) = json(&list)? else { return Ok(Self { most, ..plain }) };
        let fail = |why: String| Error::file(&list, why);
        let modules = modules.as_array().cloned().ok_or_else(|| fail("no list of modules".into()))?;
        let mut said = Self { ways: Vec::new(), unit: false, most };
        for module in modules.iter().skip(1) {
            let kind = module["type"].as_str().unwrap_or("unnamed").rsplit('.').next().unwrap_or_default();
            match kind {
                "Normalize" => said.unit = true,
                "Pooling" if said.ways.is_empty() => {
                    let folder = module["path"].as_str().unwrap_or_default();
                    if folder.is_empty() || folder.contains(['/', '\\', '.']) {
                        return Err(fail(format!("a pooling in `{folder}`, which is no folder beside it")));
                    }
                    said.ways = Self::ways(&archive.path.join(folder).join("config.json"))?;
                }
                other => {
                    return Err(fail(format!("a module {other} after the transformer, which is not computed here")));
                }
            }
        }
        match said.ways.is_empty() {
            true => Err(fail("it lists no pooling, so there is no vector of a text".into())),
            false => Ok(said),
        }
    }

    fn ways(path: &std::path::Path) -> Result<Vec<Way>> {
        let c = json(path)?.ok_or_else(|| Error::file(path, "missing, so how tokens are put together is not known"))?;
        let keys = [
            ("cls", "pooling_mode_cls_token", Some(Way::First)),
            ("max", "pooling_mode_max_tokens", Some(Way::Most)),
            ("mean", "pooling_mode_mean_tokens", Some(Way::Mean)),
            ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", Some(Way::Root)),
            ("weightedmean", "pooling_mode_weightedmean_tokens", None),
            ("lasttoken", "pooling_mode_lasttoken", None),
        ];
        let named = c["pooling_mode"].as_str();
        let on = keys.iter().filter(|(name, key, _)| c[*key] == true || named == Some(name));
        let ways: Option<Vec<Way>> = on.clone().map(|(.., way)| *way).collect();
        match ways {
            Some(ways) if !ways.is_empty() => Ok(ways),
            _ => {
                let said: Vec<&str> = on.map(|(_, key, _)| *key).chain(named).collect();
                let said = if said.is_empty() { "nothing".into() } else { said.join(", ") };
                Err(Error::file(path, format!("pooling by {said}; cls, max, mean and mean_sqrt_len are computed here")))
            }
        }
    }

    /// Pools each text, given its tokens `[batch, positions, width]` and the mask of existing ones; returns also the width.
    pub fn build(&self, net: &mut Net, x: &str, mask: &str, width: usize) -> (String, usize) {
        let m = net.node("Cast", &[mask], &[("to", int(1))]);
        let (last, first) = (net.list(&[-1]), net.list(&[1]));
        let m = net.node("Unsqueeze", &[&m, &last], &[]);
        let mut parts = Vec::new();
        for way in &self.ways {
            parts.push(match way {
                Way::First => {
                    let zero = net.constant("place", Constant::ints(&[], vec![0]));
                    net.node("Gather", &[x, &zero], &[("axis", int(1))])
                }
                Way::Most => {
                    let (one, far) = (net.scalar(1.0), net.scalar(-1e9));
                    let gone = net.node("Sub", &[&one, &m], &[]);
                    let far = net.node("Mul", &[&gone, &far], &[]);
                    let kept = net.node("Mul", &[x, &m], &[]);
                    let y = net.node("Add", &[&kept, &far], &[]);
                    net.node("ReduceMax", &[&y, &first], &[("keepdims", int(0))])
                }
                Way::Mean | Way::Root => {
                    let y = net.node("Mul", &[x, &m], &[]);
                    let sum = net.node("ReduceSum", &[&y, &first], &[("keepdims", int(0))]);
                    let count = net.node("ReduceSum", &[&m, &first], &[("keepdims", int(0))]);
                    let least = net.scalar(1e-9);
                    let mut count = net.node("Max", &[&count, &least], &[]);
                    if *way == Way::Root {
                        count = net.node("Sqrt", &[&count], &[]);
                    }
                    net.node("Div", &[&sum, &count], &[])
                }
            });
        }
        let width = width * parts.len();
        let mut y = match &parts[..] {
            [one] => one.clone(),
            all => net.node("Concat", &all.iter().map(String::as_str).collect::<Vec<_>>(), &[("axis", int(1))]),
        };
        if self.unit {
            y = net.unit(&y);
        }
        (y, width)
    }
}
