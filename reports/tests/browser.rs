//! The page in a real browser.

use esxodus_reports::{render, test_utils::sample_report};
use std::path::Path;
use std::process::Command;

/// What the browser is asked to prefer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    Light,
    Dark,
}

/// Runs Chromium on `page` with further arguments. What it wrote to standard output (with `--dump-dom` the document it ended with) and
/// what it logged; `None` where there is none.
fn browser(page: &str, theme: Theme, more: &[String]) -> Option<(String, String)> {
    let binary = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| {
            Command::new(name)
                .arg("--version")
                .output()
                .is_ok_and(|output| output.status.success())
        })?;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("page.html");
    std::fs::write(&file, page).expect("the page is written");
    let scheme = if theme == Theme::Dark { 0 } else { 1 };
    // `timeout` so that a browser that hangs ends with everything it started.
    let output = Command::new("timeout")
        .args([
            "300",
            binary,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-background-networking",
            "--no-first-run",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
        ])
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .args(more)
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("file://{}", file.display()))
        .output()
        .expect("timeout is part of coreutils");
    assert!(output.status.success(), "{binary} ended with {}", output.status);
    Some((
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

/// The document that the page ends as, and what was logged.
pub(super) fn chromium(page: &str) -> Option<(String, String)> {
    browser(page, Theme::Light, &["--dump-dom".to_owned()])
}

/// Lines between MEASURED and END that a measuring page wrote.
fn measured(dom: &str) -> Vec<String> {
    let found = dom.split("MEASURED\n").nth(1).unwrap_or_default();
    found
        .lines()
        .take_while(|line| !line.starts_with("END"))
        .map(|line| line.replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
        .collect()
}

/// A page that shows the report in a frame of each width and writes down what `script` finds there; `page`, `root` and `frame` are the
/// frame's. All that is folded is unfolded after `before` was taken.
fn measuring_page(report: &str, script: &str) -> String {
    let srcdoc = report.replace('&', "&amp;").replace('"', "&quot;");
    format!(
        r#"<!DOCTYPE html><body><iframe width="390" height="800" srcdoc="{srcdoc}"></iframe>
<iframe width="1280" height="800" srcdoc="{srcdoc}"></iframe><pre id="out"></pre><script>
addEventListener('load', () => {{
  const out = [...document.querySelectorAll('iframe')].flatMap(frame => {{
    const page = frame.contentDocument, root = page.documentElement, view = frame.contentWindow;
    const closed = root.scrollWidth;
    page.querySelectorAll('details').forEach(d => d.open = true);
    {script}
  }});
  document.getElementById('out').textContent = 'MEASURED\n' + out.join('\n') + '\nEND';
}});
</script></body>"#
    )
}

const SIZES: &str = r"
    const empty = [...page.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width < 20).length;
    const wide = [...page.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > frame.clientWidth + 1
      && view.getComputedStyle(e).clipPath === 'none').map(e => e.tagName + '.' + (e.getAttribute('class') || '')).slice(0, 5);
    return [[+frame.width, closed, root.scrollWidth, page.querySelectorAll('svg.chart').length,
      page.querySelectorAll('svg.bars').length, page.querySelectorAll('svg.track').length, empty,
      page.querySelector('img').naturalWidth, page.fonts.size, wide.join(',')].join(' ')];
";

/// The page's own colour first; then every text whose contrast with what is painted behind it is below WCAG 2.2's 4.5:1 (3:1 for large
/// text), as the browser computes both. Text in charts has `fill`.
const CONTRAST: &str = r"
    const parse = text => (text.match(/[\d.]+/g) || []).map(Number);
    const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
    const solid = c => c.length === 3 || c[3] === 1;
    const behind = element => {
      for (let e = element; e; e = e.parentElement) {
        const c = parse(view.getComputedStyle(e).backgroundColor);
        if (c.length && solid(c)) return c;
      }
      return parse(view.getComputedStyle(root).backgroundColor);
    };
    const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
    const bad = new Set(); let texts = 0;
    for (let node; (node = walker.nextNode());) {
      const element = node.parentElement;
      if (!node.nodeValue.trim() || ['STYLE', 'SCRIPT'].includes(element.tagName)) continue;
      const style = view.getComputedStyle(element);
      if (style.display === 'none' || style.visibility === 'hidden' || !element.getClientRects().length) continue;
      const front = parse(element.closest('svg') ? style.fill : style.color), back = behind(element);
      const [a, b] = [light(front), light(back)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
      const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
      texts++;
      if (ratio < (large ? 3 : 4.5)) bad.add(`${ratio.toFixed(2)} ${element.tagName}.${element.getAttribute('class') || ''}`);
    }
    return [view.getComputedStyle(page.body).backgroundColor, String(texts), [...bad].slice(0, 8).join('; ')];
";

/// The first place that the keyboard reaches; elements out of the document's order; links without a target; folded parts that the keyboard
/// does not reach; headings that skip a level.
const KEYBOARD: &str = r"
    const stops = [...page.querySelectorAll('a[href], summary, button, input, select, textarea, [tabindex]')];
    const moved = stops.filter(e => e.tabIndex > 0).length;
    const dead = [...page.querySelectorAll('a[href^=\'#\']')].filter(a => !page.getElementById(a.hash.slice(1))).map(a => a.hash);
    const deaf = [...page.querySelectorAll('summary')].filter(s => s.tabIndex < 0).length;
    let last = 0;
    const skipped = [...page.querySelectorAll('h1, h2, h3, h4, h5, h6')].filter(h => {
      const level = +h.tagName[1], jump = level > last + 1;
      last = level;
      return jump;
    }).map(h => h.textContent);
    return [stops[0].className + ' ' + stops[0].hash, String(moved), dead.join(','), String(deaf), skipped.join(',')];
";

#[test]
fn the_page_loads_without_complaint_with_every_chart_and_no_horizontal_scroll_at_390_px() {
    let report = sample_report();
    let html = render::html(&report);
    let Some((dom, _)) = chromium(&measuring_page(&html, SIZES)) else {
        println!("SKIP: no Chromium here");
        return;
    };
    let lines = measured(&dom);
    assert_eq!(lines.len(), 2, "{lines:?}");
    let compared: usize = report
        .comparisons
        .iter()
        .map(|comparison| comparison.metrics.len())
        .sum();
    for line in lines {
        let fields: Vec<&str> = line.splitn(10, ' ').collect();
        let number = |index: usize| fields[index].parse::<usize>().expect("a number");
        let width = number(0);
        assert!(
            number(1) <= width,
            "{width} px: the page is {} px wide; {}",
            number(1),
            fields[9]
        );
        assert!(
            number(2) <= width,
            "{width} px, all unfolded: {} px wide; {}",
            number(2),
            fields[9]
        );
        assert_eq!(
            number(3),
            4 + 2 + 4,
            "four latency curves, threads and sizes, and what four limits cost"
        );
        assert_eq!(
            number(4),
            compared + 17,
            "a pair of bars for each comparison, one group for each metric"
        );
        assert_eq!(number(5), compared, "a ratio track for each comparison");
        assert_eq!(number(6), 0, "charts without width");
        assert_eq!(number(7), 720, "the screenshot is decoded");
        assert_eq!(number(8), 0, "no font is loaded");
    }

    let (dom, log) = chromium(&html).expect("it ran a moment ago");
    assert!(dom.contains("id=\"raw\""), "the whole document is there");
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn every_text_stands_out_from_what_is_painted_behind_it_in_both_themes() {
    let page = measuring_page(&render::html(&sample_report()), CONTRAST);
    for (theme, paper) in [(Theme::Light, "rgb(255, 255, 255)"), (Theme::Dark, "rgb(16, 22, 29)")] {
        let Some((dom, _)) = browser(&page, theme, &["--dump-dom".to_owned()]) else {
            println!("SKIP: no Chromium here");
            return;
        };
        let lines = measured(&dom);
        assert_eq!(lines.len(), 6, "{theme:?}: {lines:?}");
        for found in lines.chunks(3) {
            assert_eq!(found[0], paper, "{theme:?}: the browser shows this theme");
            let texts: usize = found[1].parse().expect("a number");
            assert!(texts > 500, "{theme:?}: only {texts} texts were seen");
            assert_eq!(found[2], "", "{theme:?}: too little contrast");
        }
    }
}

#[test]
fn the_keyboard_reaches_the_skip_link_first_and_everything_folded_and_headings_skip_no_level() {
    let Some((dom, _)) = chromium(&measuring_page(&render::html(&sample_report()), KEYBOARD)) else {
        println!("SKIP: no Chromium here");
        return;
    };
    let lines = measured(&dom);
    assert_eq!(lines.len(), 10, "{lines:?}");
    for found in lines.chunks(5) {
        assert_eq!(found[0], "skip #main", "the first stop");
        assert_eq!(found[1], "0", "stops out of the document's order");
        assert_eq!(found[2], "", "links that lead nowhere");
        assert_eq!(found[3], "0", "folded parts that the keyboard does not reach");
        assert_eq!(found[4], "", "headings that skip a level");
    }
}

#[test]
fn it_prints_on_a_few_pages() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("report.pdf");
    let arguments = [
        format!("--print-to-pdf={}", file.display()),
        "--no-pdf-header-footer".to_owned(),
    ];
    // Whatever the reader's theme, paper is white: the palette's test has the colours.
    if browser(&render::html(&sample_report()), Theme::Dark, &arguments).is_none() {
        println!("SKIP: no Chromium here");
        return;
    }
    let pdf = std::fs::read(&file).expect("the PDF was written");
    let text = String::from_utf8_lossy(&pdf);
    let pages = text.matches("/Type /Page").count() - text.matches("/Type /Pages").count();
    assert!((4..=20).contains(&pages), "{pages} pages");
}

/// Pictures for people: the one of the README, and with ESXODUS_PICTURES=FOLDER the whole page in both themes and at both widths.
#[test]
fn the_picture_of_the_readme_is_taken_anew_when_asked_for() {
    let html = render::html(&sample_report());
    let shoot = |file: &Path, theme: Theme, size: &str| {
        let arguments = [
            format!("--screenshot={}", file.display()),
            format!("--window-size={size}"),
        ];
        browser(&html, theme, &arguments).expect("Chromium is needed for pictures");
        assert!(std::fs::read(file).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG")));
    };
    if std::env::var_os("ESXODUS_WRITE_DOCS").is_some() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        shoot(&docs.join("report.png"), Theme::Light, "1200,1080");
    }
    if let Some(folder) = std::env::var_os("ESXODUS_PICTURES") {
        let folder = Path::new(&folder);
        for (name, theme) in [("light", Theme::Light), ("dark", Theme::Dark)] {
            shoot(&folder.join(format!("{name}-1200.png")), theme, "1200,9000");
            shoot(&folder.join(format!("{name}-390.png")), theme, "390,12000");
        }
    }
}
