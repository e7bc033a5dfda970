//! The page in a real browser: headless Chromium renders it, and the picture is examined.

use super::record;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Chromium under the names it is packaged with, or the one that `NNZ_CHROMIUM` names.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("NNZ_CHROMIUM").map(PathBuf::from);
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let paths: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    named.or_else(|| names.iter().flat_map(|n| paths.iter().map(move |p| p.join(n))).find(|p| p.is_file()))
}

/// Decoded 8-bit pixels.
struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    fn read(path: &Path) -> Self {
        let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("no screenshot at {}: {e}", path.display()));
        let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        let samples = info.color_type.samples();
        assert!(samples >= 3 && info.bit_depth == png::BitDepth::Eight, "{info:?}");
        let pixels = bytes[..info.buffer_size()].chunks_exact(samples).map(|p| [p[0], p[1], p[2]]).collect();
        Self { width: info.width as usize, height: info.height as usize, pixels }
    }

    fn colours(&self) -> usize {
        self.pixels.iter().collect::<std::collections::HashSet<_>>().len()
    }

    fn brightness(&self) -> f64 {
        self.pixels.iter().flatten().map(|v| f64::from(*v)).sum::<f64>() / (3 * self.pixels.len()) as f64
    }

    /// Pixels of which no channel is further than `tolerance` from `colour`.
    fn near(&self, colour: [u8; 3], tolerance: u8) -> usize {
        self.pixels.iter().filter(|p| p.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= tolerance)).count()
    }
}

/// Runs the browser headless and returns its output; a browser that hangs is ended after a minute.
fn run(browser: &Path, name: &str, arguments: &[String]) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    let printed = folder.join(format!("{name}.txt"));
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg("--disable-dev-shm-usage")
        .arg(format!("--user-data-dir={}", folder.join(format!("profile-{name}")).display()))
        .args(arguments)
        .stdout(std::fs::File::create(&printed).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{} does not start: {e}", browser.display()));
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{} took more than a minute for {name}", browser.display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    std::fs::read_to_string(printed).unwrap()
}

/// Draws `page` in a window of `width` × `height`.
fn draw(browser: &Path, page: &Path, name: &str, dark: bool, width: usize, height: usize) -> Picture {
    let shot = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report").join(format!("{name}.png"));
    let _ = std::fs::remove_file(&shot);
    let arguments = [
        format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 }),
        format!("--screenshot={}", shot.display()),
        format!("--window-size={width},{height}"),
        format!("file://{}", page.display()),
    ];
    run(browser, name, &arguments);
    Picture::read(&shot)
}

/// The browser and a folder for its files; `None`, with a loud message, if there is no browser.
fn browser() -> Option<(PathBuf, PathBuf)> {
    let Some(browser) = chromium() else {
        let required = std::env::var_os("NNZ_REQUIRE_CHROMIUM").is_some();
        assert!(!required, "NNZ_REQUIRE_CHROMIUM is set, but there is no Chromium in PATH");
        eprintln!(
            "SKIPPED: no Chromium in PATH, so the report was not drawn. Install it, or name one in NNZ_CHROMIUM."
        );
        return None;
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    std::fs::create_dir_all(&folder).unwrap();
    Some((browser, folder))
}

/// Renders a page in light, in dark and on a phone, and examines the pictures.
pub fn assert_drawn(name: &str, html: &str) {
    let Some((browser, folder)) = browser() else { return };
    let page = folder.join(format!("{name}.html"));
    std::fs::write(&page, html).unwrap();

    let (width, height) = (1200, 5200);
    let shot = |how: &str, dark, width, height| draw(&browser, &page, &format!("{name}-{how}"), dark, width, height);
    let light = shot("light", false, width, height);
    let dark = shot("dark", true, width, height);
    let phone = shot("phone", false, 390, 9000);
    for (name, picture, size) in
        [("light", &light, (width, height)), ("dark", &dark, (width, height)), ("phone", &phone, (390, 9000))]
    {
        assert_eq!((picture.width, picture.height), size, "{name}");
        assert!(picture.colours() > 100, "{name} is nearly blank: {} colours", picture.colours());
    }
    assert!(light.brightness() > 200.0, "light has brightness {}", light.brightness());
    assert!(dark.brightness() < 70.0, "dark has brightness {}", dark.brightness());
    // The line of the method arm and the strongest inputs are there in the colours of `style.css`.
    for (name, picture, line, strong) in [
        ("light", &light, [0x0b, 0x6b, 0xcb], [0x22, 0x1f, 0x4f]),
        ("dark", &dark, [0x5a, 0xae, 0xf5], [0xf2, 0xf3, 0xa4]),
    ] {
        assert!(picture.near(line, 6) > 2000, "{name}: {} pixels of the first arm", picture.near(line, 6));
        assert!(picture.near(strong, 2) > 100, "{name}: {} pixels of strong inputs", picture.near(strong, 2));
    }
}

/// Nobody should have to scroll sideways, even on a phone.
pub fn assert_fits(name: &str, html: &str) {
    const WIDTHS: [usize; 6] = [320, 360, 560, 768, 1200, 2400];
    let Some((browser, folder)) = browser() else { return };
    // The page forbids scripts, so an enclosing page measures: each frame is a window with its own width.
    let quoted = html.replace('&', "&amp;").replace('"', "&quot;");
    let frame = |width: &usize| {
        format!("<iframe style=\"width:{width}px;height:600px;border:0\" srcdoc=\"{quoted}\"></iframe>")
    };
    let measure = "<script>onload = () => { document.body.textContent = [...document.querySelectorAll('iframe')]\
        .map(f => f.contentDocument.documentElement.scrollWidth).join(' ') }</script>";
    let page = folder.join(format!("widths-{name}.html"));
    let frames: String = WIDTHS.iter().map(frame).collect();
    std::fs::write(&page, format!("<!DOCTYPE html><body>{frames}</body>{measure}")).unwrap();
    let dom = run(&browser, &format!("widths-{name}"), &["--dump-dom".into(), format!("file://{}", page.display())]);
    let found = dom.split("<body>").nth(1).and_then(|b| b.split("</body>").next()).unwrap_or(&dom);
    assert_eq!(found.trim(), WIDTHS.map(|w| w.to_string()).join(" "), "{name}: the page is wider than its window");
}

#[test]
fn a_browser_draws_the_page_in_light_and_dark() {
    assert_drawn("report", &nnz_lab::report::html(&record()));
}

#[test]
fn the_page_fits_every_width() {
    let mut long = record();
    let name = "a_method_with_quite_a_long_name".to_string();
    long.title = name.repeat(3);
    long.machine.cpu = name.repeat(4);
    long.data.classes.iter_mut().for_each(|c| *c += &name);
    for arm in &mut long.arms {
        arm.name += &name;
        arm.seeds.iter_mut().flat_map(|s| &mut s.layers).for_each(|l| l.name += &name);
    }
    assert_fits("short", &nnz_lab::report::html(&record()));
    assert_fits("long", &nnz_lab::report::html(&long));
}
