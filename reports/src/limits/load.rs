//! Reads the data files; refuses what cannot be relied on, with file and line.

use super::model::{ComparisonRow, Confidence, Kind, Limit, Operator, Scope, Value};
use serde::Deserialize;
use std::sync::LazyLock;
use toml::Spanned;

const FILES: [(&str, &str); 7] = [
    ("esxi-vm.toml", include_str!("../../limits/esxi-vm.toml")),
    ("esxi.toml", include_str!("../../limits/esxi.toml")),
    ("proxmox-ve.toml", include_str!("../../limits/proxmox-ve.toml")),
    ("qemu-kvm.toml", include_str!("../../limits/qemu-kvm.toml")),
    ("kubevirt.toml", include_str!("../../limits/kubevirt.toml")),
    ("vendor-support.toml", include_str!("../../limits/vendor-support.toml")),
    ("tools.toml", include_str!("../../limits/tools.toml")),
];
const COMPARISON: (&str, &str) = ("comparison.toml", include_str!("../../limits/comparison.toml"));

/// Words that stand where a source should and name none.
const NO_SOURCE: [&str; 6] = [
    "no primary source",
    "no source",
    "without a source",
    "general knowledge",
    "no page at hand",
    "third-party pages",
];

/// A limits file that was refused.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// Not TOML, or not of the expected shape.
    #[error("{file}:{line}: {message}")]
    Syntax {
        /// File as the caller named it.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A row lacks something without which it is useless.
    #[error("{file}:{line}: the limit '{key}' has no {field}; state it in the row or in its group")]
    Missing {
        /// File as the caller named it.
        file: String,
        /// Line of the row, from 1.
        line: usize,
        /// Key of the row, or `?`.
        key: String,
        /// Name of the field.
        field: &'static str,
    },
    /// A host of a product of which no limits are known.
    #[error("{file}:{line}: no limits are known of a host with product = \"{found}\"; known are {known}")]
    UnknownProduct {
        /// File as the caller named it.
        file: String,
        /// Line of the host, from 1.
        line: usize,
        /// The product.
        found: String,
        /// Known products with their versions.
        known: String,
    },
    /// A field holds something that is not allowed there.
    #[error("{file}:{line}: the limit '{key}' has {field} = {found}; {allowed}")]
    Invalid {
        /// File as the caller named it.
        file: String,
        /// Line of the row, from 1.
        line: usize,
        /// Key of the row.
        key: String,
        /// Name of the field.
        field: &'static str,
        /// What was found.
        found: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// What a group says for all its rows, and a row for itself.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    product: Option<String>,
    version: Option<String>,
    scope: Option<Scope>,
    kind: Option<Kind>,
    source: Option<String>,
    retrieved: Option<String>,
    confidence: Option<Confidence>,
    key: Option<String>,
    value: Option<Value>,
    unit: Option<String>,
    #[serde(default)]
    op: Operator,
    note: Option<String>,
    compare: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    product: Option<String>,
    version: Option<String>,
    scope: Option<Scope>,
    kind: Option<Kind>,
    source: Option<String>,
    retrieved: Option<String>,
    confidence: Option<Confidence>,
    rows: Vec<Spanned<RawRow>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    group: Vec<RawGroup>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawComparison {
    row: Vec<Spanned<RawComparisonRow>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawComparisonRow {
    product: String,
    aspect: String,
    key: String,
    stated: Option<String>,
    value: Option<f64>,
    unit: Option<String>,
    scope: Option<Scope>,
    confirmed: Option<String>,
    found: String,
    source: Option<String>,
    confidence: Confidence,
    retrieved: String,
}

/// Every limit that is compiled in, in the order of the files.
///
/// # Panics
/// Never in a build whose tests passed: they parse every file.
#[must_use]
pub fn all() -> &'static [Limit] {
    static ALL: LazyLock<Vec<Limit>> = LazyLock::new(|| {
        FILES
            .iter()
            .flat_map(|(file, text)| parse(file, text).expect("the compiled-in limits are parsed by the tests"))
            .collect()
    });
    &ALL
}

/// The user's own comparison of Proxmox VE and ESXi, with what other sources say beside it.
///
/// # Panics
/// Never in a build whose tests passed: they parse the file.
#[must_use]
pub fn comparison() -> &'static [ComparisonRow] {
    static ROWS: LazyLock<Vec<ComparisonRow>> = LazyLock::new(|| {
        parse_comparison(COMPARISON.0, COMPARISON.1).expect("the compiled-in comparison is parsed by the tests")
    });
    &ROWS
}

/// Reads one limits file. `file` is the name used in messages.
///
/// # Errors
/// [`LimitsError`], with file and line: not TOML, an unknown field, or a row without product, version, scope, key, value,
/// unit, kind, source, retrieved or confidence.
pub fn parse(file: &str, text: &str) -> Result<Vec<Limit>, LimitsError> {
    let raw: RawFile = toml::from_str(text).map_err(|error| syntax(file, text, &error))?;
    let mut limits = Vec::new();
    for group in raw.group {
        for row in &group.rows {
            let line = line_of(text, row.span().start);
            limits.push(resolve(file, line, &group, row.get_ref().clone())?);
        }
    }
    Ok(limits)
}

fn resolve(file: &str, line: usize, group: &RawGroup, row: RawRow) -> Result<Limit, LimitsError> {
    let name = row.key.clone().unwrap_or_else(|| "?".to_owned());
    let missing = |field: &'static str| LimitsError::Missing {
        file: file.to_owned(),
        line,
        key: name.clone(),
        field,
    };
    let text = |own: Option<String>, shared: &Option<String>, field: &'static str| {
        own.or_else(|| shared.clone())
            .filter(|text| !text.trim().is_empty())
            .ok_or_else(|| missing(field))
    };
    let confidence = row
        .confidence
        .or(group.confidence)
        .ok_or_else(|| missing("confidence"))?;
    let scope = row.scope.or(group.scope).ok_or_else(|| missing("scope"))?;
    if scope == Scope::Unstated && confidence != Confidence::U {
        return Err(LimitsError::Invalid {
            file: file.to_owned(),
            line,
            key: name.clone(),
            field: "scope",
            found: "unstated".to_owned(),
            allowed: "only a row of confidence U may leave its scope unstated",
        });
    }
    let retrieved = text(row.retrieved, &group.retrieved, "retrieved")?;
    if !is_date(&retrieved) {
        return Err(LimitsError::Invalid {
            file: file.to_owned(),
            line,
            key: name.clone(),
            field: "retrieved",
            found: retrieved,
            allowed: "write the day as YYYY-MM-DD",
        });
    }
    let source = text(row.source, &group.source, "source")?;
    if let Some(found) = NO_SOURCE.iter().find(|phrase| source.to_lowercase().contains(*phrase)) {
        return Err(LimitsError::Invalid {
            file: file.to_owned(),
            line,
            key: name.clone(),
            field: "source",
            found: format!("\"{source}\""),
            allowed: if found.contains("pages") {
                "name the page"
            } else {
                "name a source, or leave the limit out"
            },
        });
    }
    let value = row.value.ok_or_else(|| missing("value"))?;
    if matches!(value, Value::Number(number) if !number.is_finite() || number < 0.0) {
        return Err(LimitsError::Invalid {
            file: file.to_owned(),
            line,
            key: name.clone(),
            field: "value",
            found: value.to_string(),
            allowed: "a limit is a finite number from 0 up",
        });
    }
    Ok(Limit {
        product: text(row.product, &group.product, "product")?,
        version: text(row.version, &group.version, "version")?,
        scope,
        value,
        unit: text(row.unit, &None, "unit")?,
        op: row.op,
        kind: row.kind.or(group.kind).ok_or_else(|| missing("kind"))?,
        source,
        retrieved,
        confidence,
        note: row.note,
        compare: row.compare.unwrap_or(true),
        origin: format!("{file}:{line}"),
        key: text(row.key, &None, "key")?,
    })
}

fn parse_comparison(file: &str, text: &str) -> Result<Vec<ComparisonRow>, LimitsError> {
    let raw: RawComparison = toml::from_str(text).map_err(|error| syntax(file, text, &error))?;
    raw.row
        .into_iter()
        .map(|row| {
            let line = line_of(text, row.span().start);
            let row = row.into_inner();
            let missing = |field: &'static str| LimitsError::Missing {
                file: file.to_owned(),
                line,
                key: row.key.clone(),
                field,
            };
            let filled = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
            Ok(ComparisonRow {
                unit: filled(&row.unit).ok_or_else(|| missing("unit"))?,
                scope: row.scope.ok_or_else(|| missing("scope"))?,
                source: filled(&row.source).ok_or_else(|| missing("source"))?,
                product: row.product,
                aspect: row.aspect,
                key: row.key,
                stated: row.stated,
                value: row.value,
                confirmed: row.confirmed,
                found: row.found,
                confidence: row.confidence,
                retrieved: row.retrieved,
            })
        })
        .collect()
}

fn syntax(file: &str, text: &str, error: &toml::de::Error) -> LimitsError {
    LimitsError::Syntax {
        file: file.to_owned(),
        line: error.span().map_or(1, |span| line_of(text, span.start)),
        message: error.message().to_owned(),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    matches!(parts.as_slice(), [year, month, day] if year.len() == 4 && month.len() == 2 && day.len() == 2)
        && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[[group]]
product = "P"
version = "1"
scope = "VM"
kind = "hard"
source = "a page"
retrieved = "2026-11-23"
confidence = "A"
rows = [
  { key = "vcpus", value = 4, unit = "vCPUs" },
]
"#;

    #[test]
    fn every_compiled_in_file_is_accepted_and_nothing_is_there_twice() {
        let limits: Vec<Limit> = FILES
            .iter()
            .flat_map(|(file, text)| parse(file, text).unwrap_or_else(|error| panic!("{error}")))
            .collect();
        assert!(limits.len() > 200, "{} limits", limits.len());
        let mut seen = std::collections::BTreeSet::new();
        for limit in &limits {
            let id = (&limit.product, &limit.version, limit.scope.as_str(), &limit.key);
            assert!(seen.insert(id), "{} is stated twice: {id:?}", limit.origin);
            assert_eq!(
                matches!(limit.value, Value::Text(_)),
                limit.unit == "rule",
                "{}: text carries the unit 'rule', numbers a real one",
                limit.origin
            );
        }
        assert_eq!(all(), limits);
    }

    #[test]
    fn a_row_without_source_unit_or_scope_is_refused_with_file_and_line() {
        for (field, from) in [
            ("source", "source = \"a page\"\n"),
            ("unit", ", unit = \"vCPUs\""),
            ("scope", "scope = \"VM\"\n"),
        ] {
            let text = GOOD.replacen(from, if from.ends_with('\n') { "\n" } else { "" }, 1);
            let message = parse("x.toml", &text).expect_err("must be refused").to_string();
            assert_eq!(
                message,
                format!("x.toml:11: the limit 'vcpus' has no {field}; state it in the row or in its group")
            );
        }
    }

    #[test]
    fn words_that_name_no_source_are_refused() {
        for words in ["no primary source found", "General knowledge", "third-party pages"] {
            let text = GOOD.replace("a page", words);
            let message = parse("x.toml", &text).expect_err("must be refused").to_string();
            assert!(
                message.contains("'vcpus' has source = ") && message.contains("name"),
                "{message}"
            );
        }
    }

    #[test]
    fn blank_sources_wrong_dates_unknown_fields_and_negative_values_are_refused() {
        let cases = [
            (
                GOOD.replace("a page", "  "),
                "x.toml:11: the limit 'vcpus' has no source",
            ),
            (
                GOOD.replace("2026-11-23", "yesterday"),
                "x.toml:11: the limit 'vcpus' has retrieved = yesterday",
            ),
            (GOOD.replace("unit =", "unti ="), "x.toml:11: unknown field `unti`"),
            (
                GOOD.replace("value = 4", "value = -4"),
                "x.toml:11: the limit 'vcpus' has value = -4",
            ),
            (
                GOOD.replace("scope = \"VM\"", "scope = \"unstated\""),
                "x.toml:11: the limit 'vcpus' has scope = unstated",
            ),
            (GOOD.replace("\"hard\"", "\"soft\""), "x.toml:6: unknown variant `soft`"),
        ];
        for (text, expected) in cases {
            let message = parse("x.toml", &text).expect_err(expected).to_string();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn the_comparison_holds_the_users_figures_as_stated_and_never_above_confidence_u() {
        let rows = comparison();
        let stated: Vec<(&str, &str)> = rows
            .iter()
            .filter_map(|row| row.stated.as_deref().map(|stated| (row.product.as_str(), stated)))
            .collect();
        assert_eq!(
            stated,
            [
                ("Proxmox VE", "12 TB"),
                ("Proxmox VE", "768 CPUs"),
                ("VMware ESXi", "6128 GB"),
                ("VMware ESXi", "576 CPUs"),
            ]
        );
        for row in rows {
            assert!(row.stated.is_none() || row.confidence == Confidence::U, "{row:?}");
            assert!(!row.found.is_empty());
        }
        for aspect in [
            "base-os",
            "licence",
            "hypervisor",
            "containers",
            "architecture",
            "installation",
        ] {
            assert_eq!(rows.iter().filter(|row| row.key == aspect).count(), 2, "{aspect}");
        }
    }

    #[test]
    fn a_comparison_row_without_source_unit_or_scope_is_refused() {
        let good = "[[row]]\nproduct=\"P\"\naspect=\"A\"\nkey=\"k\"\nunit=\"text\"\nscope=\"product\"\nfound=\"f\"\nsource=\"s\"\nconfidence=\"A\"\nretrieved=\"2026-11-23\"\n";
        assert!(parse_comparison("c.toml", good).is_ok());
        for (field, line) in [
            ("source", "source=\"s\"\n"),
            ("unit", "unit=\"text\"\n"),
            ("scope", "scope=\"product\"\n"),
        ] {
            let message = parse_comparison("c.toml", &good.replace(line, ""))
                .expect_err(field)
                .to_string();
            assert!(
                message.starts_with(&format!("c.toml:1: the limit 'k' has no {field}")),
                "{message}"
            );
        }
    }
}
