//! Recipes, results, papers and data are compiled in; cargo does not see by itself that they changed.

fn main() {
    for folder in ["recipes", "results", "papers", "data"] {
        println!("cargo::rerun-if-changed=../../{folder}");
    }
}
