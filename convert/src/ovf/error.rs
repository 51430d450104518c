//! Why an OVF or OVA is refused.

/// An OVF or OVA that is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OvfError {
    /// A saved error page, mostly.
    #[error("this is HTML, not OVF: a download probably saved an error page. Download the file again")]
    IsHtml,
    /// A DOCTYPE, which OVF never has and which can name entities without end.
    #[error("the document has a DOCTYPE, which OVF doesn't allow")]
    Doctype,
    /// A limit against hostile input was passed.
    #[error("{what} is above the limit of {limit}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// How much is accepted.
        limit: usize,
    },
    /// Not well-formed.
    #[error("not well-formed XML at byte {offset}: {message}")]
    Malformed {
        /// Where.
        offset: u64,
        /// What the parser says.
        message: String,
    },
    /// Well-formed, but no OVF.
    #[error("not an OVF envelope: {0}")]
    NotOvf(String),
    /// Several guests and none, or an unknown one, chosen.
    #[error("the file describes several guests: {}. Choose one by name{}", names.join(", "), asked.as_ref().map(|asked| format!(" (\"{asked}\" is none of them)")).unwrap_or_default())]
    SeveralSystems {
        /// Their names.
        names: Vec<String>,
        /// What was asked for.
        asked: Option<String>,
    },
    /// No guest.
    #[error("the file describes no guest with hardware{}", .0.as_ref().map(|asked| format!(" named \"{asked}\"")).unwrap_or_default())]
    NoSystem(Option<String>),
    /// A quantity that can't be read.
    #[error("{what} = \"{value}\" can't be read: {why}")]
    Quantity {
        /// Which.
        what: String,
        /// Its text.
        value: String,
        /// Why.
        why: String,
    },
    /// A package that can't be indexed.
    #[error("the package is damaged at byte {offset}: {message}")]
    Tar {
        /// Where.
        offset: u64,
        /// What is wrong.
        message: String,
    },
    /// A member that must not be there.
    #[error("ova.path-escape: member \"{name}\" {why}; the package is refused for safety")]
    Member {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No or several descriptions in a package.
    #[error("the package holds {} descriptions{}", .0.len(), if .0.is_empty() { String::new() } else { format!(": {}. Unpack it and name one", .0.join(", ")) })]
    Descriptions(Vec<String>),
    /// An unknown compression.
    #[error("File \"{href}\" has compression \"{compression}\"; only gzip, xz and identity are known")]
    Compression {
        /// Which file.
        href: String,
        /// What it says.
        compression: String,
    },
    /// The operating system failed a call.
    #[error("{doing} failed: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
}
