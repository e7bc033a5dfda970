//! A graph without some units: smaller constants, and numbers of nodes that follow.

use super::{Extent, Found, Operand, Part, Place, Said};
use crate::graph::{Attribute, Constant, DType, Graph, Node};
use crate::ops::Done;
use crate::value::Value;
use std::collections::{BTreeMap, HashMap, HashSet};

impl Found {
    /// Which places of an extent stay.
    fn stay(&self, extent: &[Part], keep: &[Vec<bool>]) -> Vec<bool> {
        let mut all = Vec::new();
        for part in extent {
            let (units, axis) = self.nodes[part.node];
            for u in 0..units {
                let stays = axis.is_none_or(|a| keep[a][u]);
                all.extend(std::iter::repeat_n(stays, part.each));
            }
        }
        all
    }

    /// Removes the units that `keep` rejects from a graph whose inputs are that of the network and its weights, `names` in order.
    ///
    /// # Errors
    /// When a number is not where it was.
    pub fn cut(&self, graph: &mut Graph, names: &[&str], keep: &[Vec<bool>]) -> Done<()> {
        let left = |extent: &Extent| self.stay(extent, keep).iter().filter(|s| **s).count();
        for (extents, name) in self.weights.iter().zip(names) {
            let port =
                graph.inputs.iter_mut().find(|p| p.name == *name).ok_or_else(|| format!("no weight `{name}`"))?;
            port.shape = Some(extents.iter().map(|e| Some(left(e))).collect());
        }
        let at: HashMap<String, usize> =
            graph.nodes.iter().enumerate().filter_map(|(i, n)| Some((n.outputs.first()?.clone(), i))).collect();
        // Constants may have several readers, so each gets its own.
        let mut new: BTreeMap<(usize, usize), Constant> = BTreeMap::new();
        let old = |graph: &Graph, node: usize, input: usize| -> Done<Constant> {
            let name = graph.nodes[node].inputs.get(input).ok_or("an input is missing")?;
            let given = graph.constants.get(name).cloned();
            let maker = || at.get(name).and_then(|&n| of_node(&graph.nodes[n]));
            given.or_else(maker).ok_or_else(|| format!("`{name}` is no constant"))
        };
        for Operand { reader, input, extents, computed } in &self.constants {
            let stays: Vec<Vec<bool>> = extents.iter().map(|e| self.stay(e, keep)).collect();
            if stays.iter().flatten().all(|s| *s) {
                continue;
            }
            let node = *at.get(reader).ok_or_else(|| format!("no node gives `{reader}`"))?;
            let constant = match computed {
                Some(value) => {
                    Constant::floats(&value.shape(), value.numbers().into_iter().map(|v| v as f32).collect())
                }
                None => old(graph, node, *input)?,
            };
            let mut places = vec![0];
            for stays in &stays {
                let kept: Vec<usize> = (0..stays.len()).filter(|&i| stays[i]).collect();
                places = places.iter().flat_map(|&p| kept.iter().map(move |&k| p * stays.len() + k)).collect();
            }
            let shape: Vec<usize> = extents.iter().map(left).collect();
            new.insert((node, *input), constant.picked(&shape, &places)?);
        }
        for Said { reader, place, extent, share } in &self.said {
            let stays = self.stay(extent, keep);
            if stays.iter().all(|s| *s) {
                continue;
            }
            let n = (stays.iter().filter(|s| **s).count() / share) as i64;
            let node = *at.get(reader).ok_or_else(|| format!("no node gives `{reader}`"))?;
            match place {
                Place::Int(name) => _ = graph.nodes[node].attributes.insert((*name).into(), Attribute::Int(n)),
                Place::Ints(name, at) => match graph.nodes[node].attributes.get_mut(*name) {
                    Some(Attribute::Ints(all)) if *at < all.len() => all[*at] = n,
                    _ => return Err(format!("no number {at} in `{name}` of `{reader}`")),
                },
                Place::Entry(input, at) => {
                    let constant = match new.remove(&(node, *input)) {
                        Some(constant) => constant,
                        None => old(graph, node, *input)?,
                    };
                    let (DType::I64, Value::Int(v)) = (constant.kind, constant.value()) else {
                        return Err(format!("extents of `{reader}` that are no 64-bit integers"));
                    };
                    let mut numbers = v.data().to_vec();
                    *numbers.get_mut(*at).ok_or("an extent is missing")? = n;
                    new.insert((node, *input), Constant::ints(&constant.shape, numbers));
                }
            }
        }
        for ((node, input), constant) in new {
            let node = &mut graph.nodes[node];
            let name = format!("{}/{}", node.inputs[input], node.outputs.first().map_or("", String::as_str));
            node.inputs[input].clone_from(&name);
            graph.constants.insert(name, constant);
        }
        let ends = graph.outputs.iter().map(|p| &p.name);
        let read: HashSet<&String> = graph.nodes.iter().flat_map(|n| &n.inputs).chain(ends).collect();
        let dead: Vec<bool> =
            graph.nodes.iter().map(|n| n.op == "Constant" && !n.outputs.iter().any(|o| read.contains(o))).collect();
        let unread: Vec<String> = graph.constants.keys().filter(|n| !read.contains(n)).cloned().collect();
        unread.iter().for_each(|n| _ = graph.constants.remove(n));
        let mut dead = dead.into_iter();
        graph.nodes.retain(|_| !dead.next().unwrap_or(false));
        Ok(())
    }
}

/// What a node that is a constant gives.
fn of_node(node: &Node) -> Option<Constant> {
    let (name, value) =
        node.attributes.iter().next().filter(|_| node.op == "Constant" && node.attributes.len() == 1)?;
    Some(match (value, &**name) {
        (Attribute::Tensor(constant), "value") => constant.clone(),
        (Attribute::Ints(all), _) => Constant::ints(&[all.len()], all.clone()),
        (Attribute::Floats(all), _) => Constant::floats(&[all.len()], all.clone()),
        (&Attribute::Int(one), _) => Constant::ints(&[], vec![one]),
        (&Attribute::Float(one), _) => Constant::floats(&[], vec![one]),
        _ => return None,
    })
}
