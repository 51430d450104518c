//! docs/bench.md names every workload as the code does.

use esxodus_bench::workloads::Definition;
use esxodus_bench::{SuiteOptions, list};
use reports::schema::{Better, Suite};

const BEGIN: &str = "<!-- workloads -->\n";
const END: &str = "<!-- end of workloads -->";

/// Variants of one workload (threads, sizes, depths) share a row.
fn table() -> String {
    let mut options = SuiteOptions::new(Suite::Full, std::env::temp_dir());
    options.threads = Some(4);
    let mut rows: Vec<(Definition, Vec<String>)> = Vec::new();
    for definition in list(&options) {
        let alike = |other: &Definition| {
            (other.measures, other.pitfalls, other.reference, other.unit)
                == (
                    definition.measures,
                    definition.pitfalls,
                    definition.reference,
                    definition.unit,
                )
        };
        match rows.iter_mut().find(|(other, _)| alike(other)) {
            Some((_, ids)) => ids.push(definition.id),
            None => {
                let id = definition.id.clone();
                rows.push((definition, vec![id]));
            }
        }
    }
    let mut text = "\n| Metrics | Unit | Measures | Pitfalls | Reference tool |\n|--|--|--|--|--|\n".to_owned();
    for (definition, ids) in rows {
        let ids: Vec<String> = ids.iter().map(|id| format!("`{id}`")).collect();
        let better = if definition.better == Better::Higher {
            "↑"
        } else {
            "↓"
        };
        let Definition {
            unit,
            measures,
            pitfalls,
            reference,
            ..
        } = definition;
        text.push_str(&format!(
            "| {} | {unit} {better} | {measures} | {pitfalls} | {reference} |\n",
            ids.join(" ")
        ));
    }
    text.push('\n');
    text
}

#[test]
fn the_page_holds_the_table_that_the_code_makes() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bench.md");
    let page = std::fs::read_to_string(&path).expect("docs/bench.md");
    let begin = page.find(BEGIN).expect("the beginning of the table") + BEGIN.len();
    let end = page.find(END).expect("the end of the table");
    if std::env::var_os("ESXODUS_WRITE_DOCS").is_some() {
        let new = format!("{}{}{}", &page[..begin], table(), &page[end..]);
        std::fs::write(&path, new).expect("writable");
    } else {
        assert_eq!(
            &page[begin..end],
            table(),
            "write it anew: ESXODUS_WRITE_DOCS=1 cargo test -p esxodus-bench --test main documentation"
        );
    }
}
