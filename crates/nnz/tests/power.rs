//! A run that stops at any step of the file system, as in a power cut or when it is killed, resumes and ends in the files of one that
//! was not stopped; and a run touches only its own files.

use nnz::lab::Recipe;
use nnz::lab::run::{self, Observer, Options};
use nnz_disk::faults;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Faults are those of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // Played power cuts know what is on disk; the runs before and after them need not wait for it.
    faults::unsynced();
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Quiet;
impl Observer for Quiet {}

/// A table and a recipe of two small networks, one of them with a history.
fn recipe(dir: &Path) -> Recipe {
    let mut table = String::from("a,b,c,d,y\n");
    for i in 0..48u64 {
        let x: Vec<u64> = (1..5).map(|k| (i + 1) * 2_654_435_761 * k % (17 + k)).collect();
        table += &format!("{},{},{},{},{}\n", x[0], x[1], x[2], x[3], ["low", "high"][(x[0] / 9) as usize % 2]);
    }
    fs::write(dir.join("table.csv"), table).unwrap();
    let text = format!(
        r#"
        title = "power"
        data = "{}?target=y"
        model = "mlp:4-8-2"
        seeds = [0]

        [train]
        epochs = 3
        batch = 8
        schedule = "constant"
        warmup = 0.0
        storage = "sparse"
        prune_head = false
        validation = 0.2

        [train.optimizer]
        name = "sgd"
        lr = 0.1
        momentum = 0.9
        nesterov = false
        weight_decay = 0.0

        [[arm]]
        name = "rigl"
        method = "rigl"

        [arm.options]
        density = 0.4
        every = "3 steps"

        [[arm]]
        name = "dense"
        "#,
        dir.join("table.csv").display()
    );
    Recipe::parse(&text, "recipe.toml").unwrap()
}

fn go(recipe: &Recipe, dir: &Path) -> nnz::lab::Result<()> {
    let options = Options { dir: Some(dir.into()), one_thread: true, ..Options::default() };
    run::run(recipe, nnz::REGISTRY, &options, &mut Quiet).map(drop)
}

/// Every file of a run: name and bytes. Files that contain their own times are compared by their sources, and
/// appear without them.
fn results(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(root, &path, out),
                false => drop(out.insert(path.strip_prefix(root).unwrap().into(), fs::read(&path).unwrap())),
            }
        }
    }
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(map) => {
                map.remove("seconds_per_epoch");
                map.values_mut().for_each(strip);
            }
            serde_json::Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut out = BTreeMap::new();
    walk(run, run, &mut out);
    let record = run::read_record(run).unwrap();
    let times: BTreeMap<String, Vec<f64>> = serde_json::from_slice(&out[Path::new("timings.json")]).unwrap();
    let page = out.insert("report.html".into(), Vec::new());
    assert!(page.unwrap() == nnz::lab::report::html(&record).into_bytes(), "the page is not of the record");
    for (name, text) in nnz::lab::report::csv(&record) {
        assert!(out[&Path::new("figures").join(&name)] == text.into_bytes(), "{name} is not of the record");
    }
    out.insert("figures/arms.csv".into(), Vec::new());
    for (name, seconds) in &times {
        let lines = String::from_utf8(out[&Path::new("arms").join(format!("{name}.events.jsonl"))].clone()).unwrap();
        let epochs: Vec<run::record::EpochRecord> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let board = Path::new("tensorboard").join(name).join("events.out.tfevents.0.nnz");
        let curves = out.insert(board, Vec::new()).unwrap();
        assert!(
            curves == nnz::lab::report::tensorboard(Default::default(), &epochs, seconds),
            "the curves of {name} are not those of its events"
        );
    }
    let lengths = times.iter().map(|(name, seconds)| format!("{name} {}\n", seconds.len())).collect::<String>();
    out.insert("timings.json".into(), lengths.into_bytes());
    let mut plain: serde_json::Value = serde_json::from_slice(&out[Path::new("record.json")]).unwrap();
    strip(&mut plain);
    out.insert("record.json".into(), plain.to_string().into_bytes());
    for (name, bytes) in
        out.iter_mut().filter(|(n, _)| n.starts_with("arms") && n.extension().is_some_and(|e| e == "json"))
    {
        let mut arm: serde_json::Value =
            serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("{}: {e}", name.display()));
        strip(&mut arm);
        *bytes = arm.to_string().into_bytes();
    }
    out
}

#[test]
fn a_run_that_stops_at_any_step_goes_on_to_the_same_files() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path());
    faults::after(u64::MAX);
    go(&recipe, &dir.path().join("whole")).unwrap();
    let steps = faults::cut(true);
    let whole = results(&dir.path().join("whole"));
    assert!(whole.len() > 12 && steps > 100, "{steps} steps for {:?}", whole.keys());
    let each: u64 = std::env::var("NNZ_EVERY_STEP").map_or(3, |_| 1);
    for kill in [false, true] {
        // Both halves of the steps in two runs of the test; all of them with `NNZ_EVERY_STEP=1`.
        for step in (u64::from(kill)..=steps).step_by(each as usize) {
            let run = dir.path().join(format!("{kill}-{step}"));
            faults::after(step);
            let stopped = go(&recipe, &run).is_err();
            faults::cut(kill);
            assert_eq!(stopped, step < steps, "step {step} of {steps}");
            go(&recipe, &run).unwrap_or_else(|e| panic!("stopped at step {step}, kill {kill}: {e}"));
            let files = results(&run);
            assert_eq!(files.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>(), "stopped at step {step}");
            for (name, bytes) in &whole {
                assert!(files[name] == *bytes, "stopped at step {step}, kill {kill}: {} differs", name.display());
            }
            fs::remove_dir_all(run).unwrap();
        }
    }
}

/// A history that lost its beginning is not reported as if it were whole.
#[test]
fn a_history_is_whole_or_absent() {
    let _alone = alone();
    struct Stop(usize);
    impl Observer for Stop {
        fn step(&mut self, _: &str, _: &nnz_engine::Progress) -> bool {
            self.0 += 1;
            self.0 < 8
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path());
    let run = dir.path().join("run");
    let options = Options { dir: Some(run.clone()), one_thread: true, ..Options::default() };
    run::run(&recipe, nnz::REGISTRY, &options, &mut Stop(0)).err().expect("stopped");
    let history = run.join("arms/rigl-0.topology");
    let whole = fs::read(&history).unwrap();
    fs::write(&history, &whole[..26]).unwrap();
    go(&recipe, &run).unwrap();
    assert!(!history.exists(), "half a history");
    assert!(nnz::lab::history::of_run(&run, Some("rigl")).unwrap_err().to_string().contains("keeps no history"));
}

#[test]
fn a_folder_of_somebody_else_is_left_alone() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path());
    for (name, bytes) in [("lock", "mine"), ("report.html", "mine"), ("notes.txt", ""), ("figures/arms.csv", "mine")] {
        let mine = dir.path().join("mine");
        let path = mine.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let said = go(&recipe, &mine).unwrap_err().to_string();
        assert!(said.contains("but no run") && said.contains("give another --run-dir"), "{name}: {said}");
        assert_eq!(fs::read_to_string(&path).unwrap(), bytes, "{name}");
        assert!(!mine.join("id").exists() && !mine.join("arms").exists(), "{name}");
        fs::remove_dir_all(&mine).unwrap();
    }
    // Leftovers of a process that was killed at its start belong to nobody.
    let mine = dir.path().join("mine");
    fs::create_dir_all(&mine).unwrap();
    fs::write(mine.join("lock"), "").unwrap();
    fs::write(mine.join(".nnz-1-0.tmp"), "half").unwrap();
    go(&recipe, &mine).unwrap();
    assert!(!mine.join(".nnz-1-0.tmp").exists());
}

/// `nnz top` holds the lock for a moment to see whether anybody is at work.
#[test]
fn a_look_at_a_run_does_not_refuse_it() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (recipe, run) = (recipe(dir.path()), dir.path().join("run"));
    fs::create_dir(&run).unwrap();
    fs::write(run.join("lock"), "").unwrap();
    let look = fs::File::open(run.join("lock")).unwrap();
    look.lock_shared().unwrap();
    let ends = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(30));
        drop(look);
    });
    go(&recipe, &run).unwrap();
    ends.join().unwrap();
}

/// Folders are unpacked from archives, links and all.
#[cfg(unix)]
#[test]
fn no_link_leads_a_run_out_of_its_folder() {
    let _alone = alone();
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path());
    let (run, outside) = (dir.path().join("run"), dir.path().join("outside"));
    go(&recipe, &run).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "kept").unwrap();
    let id = fs::read(run.join("id")).unwrap();
    let untouched = |what: &str| {
        let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["victim"], "{what}");
        assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "kept", "{what}");
    };
    let begin = || {
        let _ = fs::remove_dir_all(&run);
        fs::create_dir(&run).unwrap();
        fs::write(run.join("id"), &id).unwrap();
    };
    for folder in ["arms", "figures", "models", "tensorboard"] {
        begin();
        symlink(&outside, run.join(folder)).unwrap();
        let said = go(&recipe, &run).unwrap_err().to_string();
        assert!(said.contains(folder) && said.contains("a link or a file"), "{folder}: {said}");
        untouched(folder);
    }
    for file in ["lock", "checkpoint.safetensors", "report.html", "timings.json"] {
        begin();
        symlink(outside.join("victim"), run.join(file)).unwrap();
        let _ = go(&recipe, &run);
        untouched(file);
    }
    begin();
    fs::create_dir(run.join("arms")).unwrap();
    symlink(outside.join("victim"), run.join("arms/rigl-0.topology")).unwrap();
    let _ = go(&recipe, &run);
    untouched("history");
}
