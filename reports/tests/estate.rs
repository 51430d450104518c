//! The assessment of an estate as page, Markdown, CSV and JSON.

use crate::browser::chromium;
use esxodus_reports::schema::{EstateReport, EstateVerdict};
use esxodus_reports::test_utils::{HOSTILE, sample_estate};
use esxodus_reports::{limits, render};

#[test]
fn the_page_opens_with_the_comparison_of_products_stated_beside_found() {
    let page = render::estate_html(&sample_estate());
    let products = page.find("id=\"products\"").expect("the comparison");
    let verdict = page.find("class=\"verdict").expect("the verdict");
    assert!(products < verdict, "the comparison comes first");
    let aspects = [
        "Base OS",
        "Licence",
        "Hypervisor",
        "Containers",
        "Architecture",
        "Installation",
        "Maximum memory",
        "Maximum CPUs",
    ];
    let mut at = products;
    for aspect in aspects {
        at = page[at..]
            .find(&format!(">{aspect}<"))
            .unwrap_or_else(|| panic!("{aspect} in its place"))
            + at;
        assert!(at < verdict, "{aspect} stands in the comparison");
    }
    for stated in ["12 TB", "768 CPUs", "6128 GB", "576 CPUs"] {
        assert!(page.contains(&format!("<strong>{stated}</strong>")), "{stated}");
    }
    for row in limits::comparison() {
        let source = row
            .source
            .replace('&', "&amp;")
            .replace('\'', "&#x27;")
            .replace('/', "&#x2f;");
        assert!(page.contains(&source), "{source}");
    }
}

#[test]
fn hostile_names_stay_text_in_every_form() {
    let report = sample_estate();
    let page = render::estate_html(&report);
    assert!(!page.contains("<script"), "markup of a guest's name");
    assert!(!page.contains('\u{202e}'), "a character that reorders text");
    let markdown = render::estate_markdown(&report);
    assert!(!markdown.contains("<script") && !markdown.contains("[x](y)"));
    let csv = render::estate_csv(&report);
    assert!(!csv.contains("\n=") && !csv.contains("\n\"="), "a formula");
    assert!(HOSTILE.starts_with('='));
}

#[test]
fn csv_has_a_line_a_guest_and_json_reads_back() {
    let report = sample_estate();
    let csv = render::estate_csv(&report);
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let header = reader.headers().expect("a header").clone();
    let column = |name: &str| header.iter().position(|cell| cell == name).expect("the column");
    let rows: Vec<csv::StringRecord> = reader.records().map(|row| row.expect("a row")).collect();
    assert_eq!(rows.len(), 41);
    let blocked = rows.iter().filter(|row| &row[column("verdict")] == "blocked").count();
    assert_eq!(
        blocked,
        report
            .guests
            .iter()
            .filter(|guest| guest.verdict == EstateVerdict::Blocked)
            .count()
    );
    assert!(rows[7][column("limits_passed")].contains("600"), "{:?}", rows[7]);
    let json = render::estate_json(&report);
    let back: EstateReport = serde_json::from_str(&json).expect("the record reads back");
    assert_eq!(back, report);
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        value["comparison"].as_array().map(Vec::len),
        Some(limits::comparison().len())
    );
}

#[test]
fn limits_name_the_guest_that_uses_most_and_count_those_beyond() {
    let report = sample_estate();
    let one = |product: &str, quantity: &str| {
        report
            .limits
            .iter()
            .find(|limit| {
                limit.limit.product == product && limit.limit.quantity == quantity && limit.limit.confidence == "A"
            })
            .unwrap_or_else(|| panic!("{product} {quantity}"))
    };
    let vcpus = one("VMware ESXi", "vcpus");
    assert_eq!((vcpus.guest.as_str(), vcpus.beyond), ("web07.example.org", 1));
    assert!(!vcpus.limit.fits);
    let nics = one("VMware ESXi", "nics");
    assert_eq!(nics.beyond, 0);
    let pve = &report.hosts[0];
    assert_eq!(
        (pve.too_large, pve.too_large_names.as_slice()),
        (1, &["web07.example.org".to_owned()][..])
    );
    assert!(
        report.hosts[1].limits.iter().any(|limit| !limit.fits),
        "600 CPUs are more than ESXi 6.5 takes"
    );
    let first = &report.limits[0];
    assert!(!first.limit.fits, "what is passed comes first: {first:?}");
}

#[test]
fn markdown_tables_have_as_many_cells_as_columns() {
    let text = render::estate_markdown(&sample_estate());
    let mut columns = None;
    for line in text.lines() {
        if !line.starts_with('|') {
            columns = None;
            continue;
        }
        let cells = line.replace("\\|", "").matches('|').count();
        assert_eq!(*columns.get_or_insert(cells), cells, "{line}");
    }
    assert!(text.contains("## Products compared") && text.contains("**12 TB**"));
}

#[test]
fn the_estate_page_loads_without_complaint_and_without_horizontal_scroll_at_390_px() {
    let page = render::estate_html(&sample_estate());
    let srcdoc = page.replace('&', "&amp;").replace('"', "&quot;");
    let measuring = format!(
        r#"<!DOCTYPE html><body><iframe width="390" height="800" srcdoc="{srcdoc}"></iframe>
<iframe width="1280" height="800" srcdoc="{srcdoc}"></iframe><pre id="out"></pre><script>
addEventListener('load', () => {{
  const out = [...document.querySelectorAll('iframe')].map(frame => {{
    const page = frame.contentDocument, root = page.documentElement;
    page.querySelectorAll('details').forEach(d => d.open = true);
    const wide = [...page.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > frame.clientWidth + 1
      && getComputedStyle(e).clipPath === 'none').map(e => e.tagName + '.' + (e.getAttribute('class') || '')).slice(0, 5);
    return [+frame.width, root.scrollWidth, page.querySelectorAll('#guests tbody tr').length, wide.join(',')].join(' ');
  }});
  document.getElementById('out').textContent = 'MEASURED\n' + out.join('\n') + '\nEND';
}});
</script></body>"#
    );
    let Some((dom, _)) = chromium(&measuring) else {
        println!("SKIP: no Chromium here");
        return;
    };
    let measured = dom.split("MEASURED\n").nth(1).unwrap_or_default();
    let lines: Vec<&str> = measured.lines().take_while(|line| !line.starts_with("END")).collect();
    assert_eq!(lines.len(), 2, "{measured}");
    for line in lines {
        let fields: Vec<&str> = line.splitn(4, ' ').collect();
        let number = |index: usize| fields[index].parse::<usize>().expect("a number");
        assert!(number(1) <= number(0), "{line}");
        assert_eq!(number(2), 41, "a row a guest");
    }
    let (_, log) = chromium(&page).expect("it ran a moment ago");
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}
