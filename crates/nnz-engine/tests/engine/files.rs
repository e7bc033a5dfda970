//! The files under `networks/` are the named networks, so that each can serve as the start of another.

use nnz_engine::ModelSpec;
use std::path::Path;

/// Name of the file, the network, its input and its outputs.
const NETWORKS: [(&str, &str, [usize; 3], usize); 11] = [
    ("lenet-300-100", "mlp:784-300-100-10", [1, 28, 28], 10),
    ("lenet5", "lenet5", [1, 28, 28], 10),
    ("vgg-small", "vgg-small", [3, 32, 32], 10),
    ("resnet8", "resnet8", [3, 32, 32], 10),
    ("resnet20", "resnet20", [3, 32, 32], 10),
    ("resnet32", "resnet32", [3, 32, 32], 10),
    ("mobilenet-small", "mobilenet-small", [3, 32, 32], 10),
    ("transformer", "transformer:64-2-4-7", [1, 28, 28], 10),
    ("causal-transformer", "causal-transformer:256-64-2-4", [1, 1, 64], 256),
    ("autoencoder", "autoencoder:784-256-32", [1, 28, 28], 784),
    ("vae", "vae:784-256-16", [1, 28, 28], 784),
];

/// Set `NNZ_WRITE_NETWORKS` to rewrite the files.
#[test]
fn every_named_network_is_a_file_too() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../networks");
    let mut files: Vec<String> =
        std::fs::read_dir(&dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    for (file, name, input, outputs) in NETWORKS {
        let path = dir.join(format!("{file}.toml"));
        let spec = ModelSpec::parse(name, input, outputs).unwrap();
        if std::env::var_os("NNZ_WRITE_NETWORKS").is_some() {
            std::fs::write(&path, toml::to_string(&spec).unwrap()).unwrap();
        }
        let read: ModelSpec = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(read, spec, "{file}");
        files.retain(|f| *f != format!("{file}.toml"));
    }
    // The rest are networks without a name; they are whole.
    for file in files {
        let spec: ModelSpec = toml::from_str(&std::fs::read_to_string(dir.join(&file)).unwrap()).unwrap();
        spec.output().unwrap_or_else(|why| panic!("{file}: {why}"));
    }
}
