//! The page in a real browser.

use esxodus_reports::{render, test_utils::sample_report};
use std::process::Command;

/// Runs Chromium on `page` and returns the document it ended with and what it logged; `None` where there is none.
pub(super) fn chromium(page: &str) -> Option<(String, String)> {
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
    // `timeout` so that a browser that hangs ends with everything it started.
    let output = Command::new("timeout")
        .args([
            "120",
            binary,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
        ])
        .args([
            "--no-first-run",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
        ])
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

/// A page that shows the report in a frame of each width and writes down what it measures there.
fn measuring_page(report: &str) -> String {
    let srcdoc = report.replace('&', "&amp;").replace('"', "&quot;");
    format!(
        r#"<!DOCTYPE html><body><iframe width="390" height="800" srcdoc="{srcdoc}"></iframe>
<iframe width="1280" height="800" srcdoc="{srcdoc}"></iframe><pre id="out"></pre><script>
addEventListener('load', () => {{
  const out = [...document.querySelectorAll('iframe')].map(frame => {{
    const page = frame.contentDocument, root = page.documentElement;
    const closed = root.scrollWidth;
    page.querySelectorAll('details').forEach(d => d.open = true);
    const empty = [...page.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width < 20).length;
    const wide = [...page.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > frame.clientWidth + 1
      && getComputedStyle(e).clipPath === 'none').map(e => e.tagName + '.' + (e.getAttribute('class') || '')).slice(0, 5);
    return [+frame.width, closed, root.scrollWidth, page.querySelectorAll('svg.chart').length,
      page.querySelectorAll('svg.bars').length, page.querySelectorAll('svg.track').length, empty,
      page.querySelector('img').naturalWidth, page.fonts.size, wide.join(',')].join(' ');
  }});
  document.getElementById('out').textContent = 'MEASURED\n' + out.join('\n') + '\nEND';
}});
</script></body>"#
    )
}

#[test]
fn the_page_loads_without_complaint_with_every_chart_and_no_horizontal_scroll_at_390_px() {
    let report = sample_report();
    let html = render::html(&report);
    let Some((dom, _)) = chromium(&measuring_page(&html)) else {
        println!("SKIP: no Chromium here");
        return;
    };
    let measured = dom
        .split(
            "MEASURED
",
        )
        .nth(1)
        .unwrap_or_default();
    let lines: Vec<&str> = measured.lines().take_while(|line| !line.starts_with("END")).collect();
    assert_eq!(lines.len(), 2, "{measured}");
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
        assert_eq!(number(3), 4 + 2, "four latency curves, threads and sizes");
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
