//! Recipes, results, papers and data are compiled in; cargo does not notice their changes by itself.

fn main() {
    for folder in ["recipes", "results", "papers", "data"] {
        println!("cargo::rerun-if-changed=../../{folder}");
    }
}
