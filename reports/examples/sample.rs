//! Writes a sample report, invented figures throughout: `cargo run -p esxodus-reports --features test-utils --example
//! sample -- FOLDER`.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("."), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    let report = esxodus_reports::test_utils::sample_report();
    let estate = esxodus_reports::test_utils::sample_estate();
    for (name, text) in [
        ("estate.html", esxodus_reports::render::estate_html(&estate)),
        ("estate.md", esxodus_reports::render::estate_markdown(&estate)),
        ("report.html", esxodus_reports::render::html(&report)),
        ("report.md", esxodus_reports::render::markdown(&report)),
        ("report.csv", esxodus_reports::render::csv(&report)),
        ("report.junit.xml", esxodus_reports::render::junit(&report)),
        ("report.json", esxodus_reports::render::json(&report)),
    ] {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}
