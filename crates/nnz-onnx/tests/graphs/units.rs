//! Units that are cut from graphs: a unit that nothing reads has no effect, so without it a network answers the same.

use crate::gradients::{all, answers, digits, far, graph, index, network, rows};
use nnz_core::{Edit, MethodInstance, Plan, Result, Shape, Signals, Sparsifier, Target, TargetKind, Topology};
use nnz_engine::{Along, Axis, Layers, Model, Param, Storage, Tensor, axes, prune};
use nnz_onnx::{Attribute, Budget, Constant, Graph, GraphNet, Port, Session, Value};
use std::path::Path;

/// Every third unit goes, but not all.
fn stays(u: usize, units: usize) -> bool {
    u % 3 != 1 || units == 1
}

/// Cuts them.
struct Cut;

impl Sparsifier for Cut {
    fn kind(&self) -> TargetKind {
        TargetKind::Units
    }

    fn check(&self, _: &[&Shape]) -> Result<()> {
        Ok(())
    }

    fn plan(&self, _: u64) -> Plan {
        Plan::Rewire(Signals::NONE)
    }

    fn rewire(&mut self, _: u64, targets: &[Target]) -> Result<Vec<Edit>> {
        let edit = |t: &Target| {
            let kept = (0..t.shape.rows).filter(|&u| stays(u, t.shape.rows)).map(|u| u as u64);
            Edit::Rewire { topology: Topology::from_positions(t.shape.rows, 1, kept), grown: Vec::new() }
        };
        Ok(targets.iter().map(edit).collect())
    }
}

/// Places of an axis along a dimension of a parameter whose units go.
fn gone(axis: &Axis, member: usize, place: usize) -> bool {
    axis.members[member].spans.iter().any(|s| {
        let at = (place % s.period).checked_sub(s.offset).map(|at| at / s.each);
        at.is_some_and(|u| u < axis.units && !stays(u, axis.units))
    })
}

/// Zeroes what reads the units that go.
fn unread(model: &mut Model<f32>, axes: &[Axis]) {
    for axis in axes {
        for (k, m) in axis.members.iter().enumerate().filter(|(_, m)| !m.makes && m.along != Along::Entries) {
            let p = &mut model.params[m.param];
            let cols = p.shape.cols;
            for i in 0..p.value.len() {
                let place = if m.along == Along::Cols { i % cols } else { i / cols };
                if gone(axis, k, place) {
                    p.value.data_mut()[i] = 0.0;
                }
            }
        }
    }
}

/// Cuts a network whose axes are these; returns it. It answers the same, and so does its file.
fn cut(name: &str, mut model: Model<f32>, x: &Tensor<f32>, want: &[(&str, usize)]) -> Model<f32> {
    let found = axes(&model.spec);
    let names: Vec<(&str, usize)> = found.iter().map(|a| (&*a.name, a.units)).collect();
    let [c, h, w] = model.spec.input;
    assert_eq!(names, want, "{name}: {:?}", GraphNet::of(&model).unwrap().held(&[h, w, c]));
    unread(&mut model, &found);
    let before = model.infer(x.clone()).unwrap();
    let entries: usize = model.params.iter().map(|p| p.value.len()).sum();
    prune(&mut model, &mut MethodInstance::from(Cut), None, Storage::Auto).unwrap_or_else(|e| panic!("{name}: {e}"));
    let smaller: usize = model.params.iter().map(|p| p.value.len()).sum();
    assert_eq!(smaller < entries, !want.is_empty(), "{name}: {smaller} of {entries}");
    let after = model.infer(x.clone()).unwrap();
    assert!(far(after.data(), before.data()) < 1e-5, "{name}: {:e}", far(after.data(), before.data()));
    // The layer says what its tensors are, and so does the file.
    let specs = model.spec.params();
    let extents = |p: &Param<f32>| (p.shape.name.clone(), p.shape.rows, p.shape.cols, p.value.len());
    let said = specs.iter().map(|p| (p.shape.name.clone(), p.shape.rows, p.shape.cols, p.shape.len()));
    assert_eq!(model.params.iter().map(extents).collect::<Vec<_>>(), said.collect::<Vec<_>>(), "{name}");
    let left: Vec<usize> = axes(&model.spec).iter().map(|a| a.units).collect();
    let kept = |n: usize| (0..n).filter(|&u| stays(u, n)).count();
    let expected: Vec<usize> = match name {
        // One group is none, so its channels are units now.
        "shufflenet" => vec![2, 2],
        _ => want.iter().map(|(_, n)| kept(*n)).filter(|&n| n > 1).collect(),
    };
    assert_eq!(left, expected, "{name}");
    let text = serde_json::to_string(&model.spec).unwrap();
    let mut spec: nnz_engine::ModelSpec = serde_json::from_str(&text).unwrap();
    spec.bind(&Layers::new().with::<GraphNet>()).unwrap();
    assert_eq!(spec.params(), specs, "{name}");
    model
}

/// Answers of the file of a network, which is read again.
fn of_file(model: &Model<f32>, port: &Port, x: Value) -> Vec<f32> {
    let graph = GraphNet::of(model).unwrap().graph(model).unwrap();
    let read = Graph::parse(graph.write(false).into(), Path::new("cut.onnx"), None).unwrap();
    let session = Session::new(&read, None, Budget::default()).unwrap();
    session.run(vec![(&port.name, x)]).unwrap()[0].numbers().into_iter().map(|v| v as f32).collect()
}

#[test]
fn networks_of_pytorch_lose_units_through_all_that_shares_them() {
    let cases: [(&str, &[(&str, usize)]); 13] = [
        ("mlp", &[("0", 9), ("2", 7)]),
        // The second convolution of a block ends in the stream of the first, two projections in that of the last.
        ("resnet", &[("first", 6), ("a", 6), ("down", 8)]),
        ("mobilenet", &[("stem.0", 6), ("block.0", 12)]),
        // Its last pooling is a node that looks places up.
        ("vgg", &[("features.0.0", 5), ("classifier.0", 10)]),
        ("densenet", &[("stem", 4), ("convs.0", 3), ("convs.1", 3)]),
        ("squeezenet", &[("stem", 6), ("squeeze", 3), ("one", 4), ("three", 4)]),
        // Half of the channels run past the convolutions and are shuffled with them; groups go as a whole.
        ("shufflenet", &[("a", 2)]),
        ("vit", &[("up", 16)]),
        ("minilm", &[("up", 16)]),
        ("swin", &[]),
        ("unet", &[("c", 6)]),
        ("lstm", &[]),
        ("gru", &[]),
    ];
    let index = index();
    assert_eq!(index.len(), cases.len());
    let other = cases.iter().filter_map(|(name, want)| {
        let model = network(name, &index[*name], Storage::Auto);
        let [c, h, w] = model.spec.input;
        let found: Vec<(String, usize)> = axes(&model.spec).into_iter().map(|a| (a.name, a.units)).collect();
        let same = found.iter().map(|(n, u)| (&**n, *u)).eq(want.iter().copied());
        (!same)
            .then(|| format!("{name}: {found:?}, not {want:?}: {:?}", GraphNet::of(&model).unwrap().held(&[h, w, c])))
    });
    let other: Vec<String> = other.collect();
    assert!(other.is_empty(), "{}", other.join("\n"));
    for (name, want) in cases {
        let case = &index[name];
        let model = network(name, case, Storage::Auto);
        let row: Vec<usize> = serde_json::from_value(case["row"].clone()).unwrap();
        let tokens = ["lstm", "gru", "minilm"].contains(&name);
        let x = rows(&row, tokens);
        let port = GraphNet::of(&model).unwrap().graph(&model).unwrap().inputs[0].clone();
        let model = cut(name, model, x.value(), want);
        let want = model.infer(x.value().clone()).unwrap();
        // Channels first, as the file reads them.
        let (rows, n) = (x.shape()[0], x.shape()[1]);
        let (c, places) = (row[0], n / row[0]);
        let first = |i: usize| if row.len() == 3 { i / n * n + i % places * c + i % n / places } else { i };
        let x: Vec<f32> = (0..rows * n).map(|i| x.value().data()[first(i)]).collect();
        let shape = [&[rows][..], &row].concat();
        let x = match tokens {
            true => Value::ints(&shape, x.iter().map(|&v| v as i64).collect()),
            false => Value::floats(&shape, x),
        };
        let got = of_file(&model, &port, x);
        assert!(far(&got, want.data()) < 1e-5, "{name}: {:e}", far(&got, want.data()));
    }
}

#[test]
fn what_stays_whole_is_told_with_its_reason() {
    let held = |name: &str| {
        let case = &index()[name];
        let model = network(name, case, Storage::Auto);
        let [c, h, w] = model.spec.input;
        GraphNet::of(&model).unwrap().held(&[h, w, c])
    };
    let vit = held("vit");
    assert!(vit.values().flatten().any(|n| n == "patch"), "{vit:?}");
    assert!(
        vit.iter().any(|(why, all)| why.contains("Reshape") && all.iter().any(|n| n == "attention.qkv")),
        "{vit:?}"
    );
    // The head is no surprise.
    assert!(held("resnet").is_empty(), "{:?}", held("resnet"));
}

/// The network that was exported with a batch of one; a `Reshape` in it holds a number of channels.
#[test]
fn a_file_with_a_fixed_batch_gets_smaller_with_the_numbers_in_its_nodes() {
    let graph = digits();
    let model = GraphNet::model(&graph, [1, 28, 28], Storage::Auto, &all()).unwrap();
    let x: Vec<f32> = (0..4 * 784).map(|i| (i * 37 % 256) as f32 / 255.0).collect();
    let want = [("stem", 6), ("wide", 12), ("hidden", 24)];
    let model = cut("digits", model, &Tensor::new(&[4, 784], x.clone()), &want);
    let mut written = graph.clone();
    GraphNet::of(&model).unwrap().write_into(&mut written, &model).unwrap();
    let shape = |name: &str| written.constants[name].shape.clone();
    assert_eq!(
        (shape("stem.weight"), shape("deep.weight"), shape("wide.weight")),
        (vec![4, 1, 5, 5], vec![4, 1, 3, 3], vec![8, 4, 3, 3])
    );
    assert_eq!((shape("hidden.weight"), shape("head.weight")), (vec![16, 72], vec![10, 16]));
    let ops = |g: &Graph| g.nodes.iter().map(|n| n.op.clone()).collect::<Vec<_>>();
    assert_eq!(ops(&written), ops(&graph));
    let read = Graph::parse(written.write(false).into(), Path::new("cut.onnx"), None).unwrap();
    let got = answers(&read, &x, 4);
    let want = model.infer(Tensor::new(&[4, 784], x)).unwrap();
    assert!(far(&got, want.data()) < 1e-5, "{:e}", far(&got, want.data()));
}

/// Numbers that are no two alike.
fn weights(g: &mut Graph, name: &str, shape: &[usize]) {
    let n: usize = shape.iter().product();
    let seed = g.constants.len() * 101;
    let data = (0..n).map(|i| (((i + seed) * 7919) % 1009) as f32 / 504.0 - 1.0).collect();
    g.constants.insert(name.into(), Constant::floats(shape, data));
}

/// A graph on images of four channels, 4x4, of which `build` gives the last value.
fn image(build: impl FnOnce(&mut Graph) -> String) -> Graph {
    let mut g = graph(build);
    g.inputs[0].shape = Some(vec![None, Some(4), Some(4), Some(4)]);
    g
}

fn ints(g: &mut Graph, name: &str, values: &[i64]) {
    g.constants.insert(name.into(), Constant::ints(&[values.len()], values.to_vec()));
}

/// Cuts a graph on images and compares its file with its answers.
fn check(name: &str, g: &Graph, want: &[(&str, usize)]) -> Graph {
    let model = GraphNet::model(g, [4, 4, 4], Storage::Auto, &all()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let x: Vec<f32> = (0..2 * 64).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    // Channels last, as models read them.
    let last: Vec<f32> = (0..128).map(|i| x[i / 64 * 64 + i % 4 * 16 + i % 64 / 4]).collect();
    let model = cut(name, model, &Tensor::new(&[2, 64], last.clone()), want);
    let got = of_file(&model, &g.inputs[0], Value::floats(&[2, 4, 4, 4], x));
    let want = model.infer(Tensor::new(&[2, 64], last)).unwrap();
    assert!(far(&got, want.data()) < 1e-5, "{name}: {:e}", far(&got, want.data()));
    GraphNet::of(&model).unwrap().graph(&model).unwrap()
}

#[test]
fn units_are_followed_through_splits_groups_and_shapes() {
    let group = |n: i64| ("group", Attribute::Int(n));
    let axis = |n: i64| ("axis", Attribute::Int(n));
    // Parts of one extent that meet again are one axis; a part that goes its own way is another.
    let g = image(|g| {
        weights(g, "a.weight", &[9, 4, 1, 1]);
        weights(g, "b.weight", &[5, 3, 1, 1]);
        weights(g, "head.weight", &[3, 5 * 16]);
        ints(g, "parts", &[3, 3, 3]);
        let x = g.add("Conv", &["x", "a.weight"], &[]);
        let mut node = nnz_onnx::Node::new("Split", "p", &[&x, "parts"]);
        node.outputs = vec!["p".into(), "q".into(), "r".into()];
        node.attributes.insert("axis".into(), Attribute::Int(1));
        g.nodes.push(node);
        let s = g.add("Add", &["p", "q"], &[]);
        let s = g.add("Mul", &[&s, "r"], &[]);
        let y = g.add("Conv", &[&s, "b.weight"], &[]);
        ints(g, "flat", &[-1, 80]);
        let y = g.add("Reshape", &[&y, "flat"], &[]);
        g.add("Gemm", &[&y, "head.weight"], &[("transB", Attribute::Int(1))])
    });
    let cut = check("split", &g, &[("a", 3), ("b", 5)]);
    let split = cut.nodes.iter().find(|n| n.op == "Split").unwrap();
    assert_eq!(cut.constants[&split.inputs[1]].value().numbers(), [2.0, 2.0, 2.0]);
    let reshape = cut.nodes.iter().find(|n| n.op == "Reshape").unwrap();
    assert_eq!(cut.constants[&reshape.inputs[1]].value().numbers(), [-1.0, 48.0]);
    assert!(!cut.constants.contains_key("flat"), "it is not read any more");
    // Groups of several channels, and constants that are not trained.
    let g = image(|g| {
        weights(g, "a.weight", &[12, 4, 3, 3]);
        weights(g, "b.weight", &[6, 4, 1, 1]);
        weights(g, "head.weight", &[2, 6, 1, 1]);
        g.constants
            .insert("/scale".into(), Constant::floats(&[12, 1, 1], (0..12).map(|i| i as f32 / 3.0 - 2.0).collect()));
        let x = g.add("Conv", &["x", "a.weight"], &[("pads", Attribute::Ints(vec![1; 4]))]);
        let x = g.add("Mul", &[&x, "/scale"], &[]);
        let x = g.add("Conv", &[&x, "b.weight"], &[group(3)]);
        let x = g.add("Relu", &[&x], &[]);
        let x = g.add("GlobalAveragePool", &[&x], &[]);
        let x = g.add("Conv", &[&x, "head.weight"], &[]);
        g.add("Flatten", &[&x], &[axis(1)])
    });
    let cut = check("groups", &g, &[("a", 3)]);
    let conv = cut.nodes.iter().filter(|n| n.op == "Conv").nth(1).unwrap();
    assert!(matches!(conv.attributes["group"], Attribute::Int(2)));
    assert_eq!(cut.constants["a.weight"].shape, [8, 4, 3, 3]);
    // Channels last before a matrix: one column of each unit at every place, and a concatenation behind it.
    let g = image(|g| {
        weights(g, "a.weight", &[3, 4, 1, 1]);
        weights(g, "b.weight", &[6, 4, 2, 2]);
        weights(g, "head.weight", &[48 + 54, 5]);
        let a = g.add("Conv", &["x", "a.weight"], &[]);
        let a = g.add("Transpose", &[&a], &[("perm", Attribute::Ints(vec![0, 2, 3, 1]))]);
        let a = g.add("Flatten", &[&a], &[axis(1)]);
        let b = g.add("Conv", &["x", "b.weight"], &[]);
        let b = g.add("Flatten", &[&b], &[axis(1)]);
        let both = g.add("Concat", &[&b, &a], &[axis(1)]);
        g.add("MatMul", &[&both, "head.weight"], &[])
    });
    let cut = check("places", &g, &[("a", 3), ("b", 6)]);
    assert_eq!(cut.constants["head.weight"].shape, [2 * 16 + 4 * 9, 5]);
    // A sum over channels, and one that is cut in the middle of a group, stay.
    let g = image(|g| {
        weights(g, "a.weight", &[6, 4, 1, 1]);
        weights(g, "b.weight", &[4, 4, 1, 1]);
        weights(g, "c.weight", &[3, 4]);
        let a = g.add("Conv", &["x", "a.weight"], &[]);
        ints(g, "axes", &[1]);
        let a = g.add("ReduceMax", &[&a, "axes"], &[]);
        let b = g.add("Conv", &["x", "b.weight"], &[]);
        let b = g.add("Mul", &[&a, &b], &[]);
        let b = g.add("GlobalAveragePool", &[&b], &[]);
        let b = g.add("Flatten", &[&b], &[axis(1)]);
        g.add("Gemm", &[&b, "c.weight"], &[("transB", Attribute::Int(1))])
    });
    check("sums", &g, &[("b", 4)]);
    // What a node reads that no answer needs is not cut.
    let mut g = image(|g| {
        weights(g, "a.weight", &[6, 4, 1, 1]);
        weights(g, "c.weight", &[3, 6, 1, 1]);
        let a = g.add("Conv", &["x", "a.weight"], &[]);
        let c = g.add("Conv", &[&a, "c.weight"], &[]);
        g.add("Flatten", &[&c], &[axis(1)])
    });
    check("alone", &g, &[("a", 6)]);
    g.nodes.insert(1, nnz_onnx::Node::new("Relu", "aside", &["Conv.0"]));
    check("aside", &g, &[]);
}
