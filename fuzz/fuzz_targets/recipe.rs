#![no_main]
//! Recipes, with everything that is checked before the first step.
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(recipe) = nnz::lab::Recipe::parse(text, "recipe.toml") else { return };
    if let nnz::lab::Network::Named(name) = &recipe.model {
        let _ = nnz_engine::ModelSpec::parse(name, [1, 28, 28], 10);
    }
    if let Ok(resolved) = recipe.resolve(nnz::REGISTRY) {
        let text = resolved.to_toml().unwrap();
        assert!(nnz::lab::Recipe::parse(&text, "recipe.toml").unwrap() == resolved);
    }
});
