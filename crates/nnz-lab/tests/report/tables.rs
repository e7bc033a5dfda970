//! The numbers of the figures.

use super::record;
use nnz_lab::report::csv;
use std::collections::HashMap;

/// All tables, read back: name to rows, each row a map from column to field.
fn read(record: &nnz_lab::run::record::RunRecord) -> HashMap<String, Vec<HashMap<String, String>>> {
    let rows =
        |text: &str| ::csv::Reader::from_reader(text.as_bytes()).deserialize().collect::<Result<_, _>>().unwrap();
    csv(record).iter().map(|(name, text)| (name.clone(), rows(text))).collect()
}

#[test]
fn every_number_of_the_figures_is_there() {
    let record = record();
    let tables = read(&record);
    assert_eq!(tables["arms.csv"].len(), 4);
    assert_eq!(tables["seeds.csv"].len(), 12);
    assert_eq!(tables["curves.csv"].len(), 4 * 3 * 20);
    assert_eq!(tables["layers.csv"].len(), 4 * 3 * 3);
    assert_eq!(tables["inputs.csv"].len(), 4 * 3 * 784);
    assert_eq!(tables["misread.csv"].len(), 12);

    let epoch = &record.arms[1].seeds[2].epochs[6];
    let row = tables["curves.csv"]
        .iter()
        .find(|r| r["arm"] == "static-random" && r["seed"] == "2" && r["epoch"] == "7")
        .unwrap();
    assert_eq!(row["loss"].parse::<f64>().unwrap(), epoch.loss);
    assert_eq!(row["accuracy"].parse::<f64>().unwrap(), epoch.accuracy);
    let moved = |r: &&HashMap<String, String>| r["arm"] == "rigl" && r["seed"] == "1" && r["epoch"] == "2";
    let row = tables["curves.csv"].iter().find(moved).unwrap();
    assert_eq!((row["born"].as_str(), row["died"].as_str()), ("3827", "3827"));
    let row = &tables["seeds.csv"][5];
    assert_eq!((row["arm"].as_str(), row["seed"].as_str(), row["nonzeros"].as_str()), ("static-random", "2", "14260"));

    // Degrees count every connection once from either side.
    for (direction, units) in [("fan_in", 300 + 100 + 10), ("fan_out", 784 + 300 + 100)] {
        let of = |r: &&HashMap<String, String>| r["arm"] == "rigl" && r["seed"] == "1" && r["direction"] == direction;
        let sum = |r: &HashMap<String, String>| {
            r["connections"].parse::<usize>().unwrap() * r["units"].parse::<usize>().unwrap()
        };
        assert_eq!(tables["degrees.csv"].iter().filter(of).map(sum).sum::<usize>(), record.arms[0].nonzeros);
        let counted = tables["degrees.csv"].iter().filter(of).map(|r| r["units"].parse::<usize>().unwrap());
        assert_eq!(counted.sum::<usize>(), units);
    }
    let pixel =
        tables["inputs.csv"].iter().find(|r| r["arm"] == "rigl" && r["row"] == "14" && r["column"] == "13").unwrap();
    assert_eq!(pixel["fan_out"], record.arms[0].seeds[0].layers[0].fan_out[14 * 28 + 13].to_string());
    let rows: u32 = tables["confusion.csv"].iter().map(|r| r["count"].parse::<u32>().unwrap()).sum();
    assert_eq!(rows, 4 * 3 * 2000);
}

/// Names come from anywhere, and spreadsheets compute cells that begin like formulas.
#[test]
fn names_that_begin_like_formulas_are_texts() {
    let mut record = record();
    let mut shown = |name: &str| {
        record.arms[0].name = name.into();
        read(&record)["arms.csv"][0]["arm"].clone()
    };
    for name in ["=1+1", "@SUM(A1)", "+cmd", "-2+3", "\t=1"] {
        assert_eq!(shown(name), format!("'{name}"));
    }
    for plain in ["-2.5", "+1e3", "a=1", ""] {
        assert_eq!(shown(plain), plain);
    }
}

#[test]
fn any_text_survives_and_missing_places_stay_empty() {
    let mut record = record();
    record.arms[0].name = "a,\"b\"\r\nc; =1+1".into();
    record.data.image = [1, 1, 784];
    record.arms[0].seconds_per_epoch = f64::NAN;
    let tables = read(&record);
    assert_eq!(tables["arms.csv"][0]["arm"], record.arms[0].name);
    assert_eq!(tables["arms.csv"][0]["seconds_per_epoch"], "NaN");
    assert_eq!(tables["inputs.csv"][5]["row"], "");
    assert_eq!(tables["inputs.csv"][5]["input"], "5");
}
