//! The `.cert` file of a package: a signature over the manifest and the X.509 certificate that belongs to it.
//!
//! It is described, not trusted: no chain is built and no signature is verified.

use base64::Engine as _;
use std::time::SystemTime;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// Subject, issuer and validity in words, or why there is none to tell.
pub(super) fn describe(file: &[u8]) -> String {
    let text = String::from_utf8_lossy(file);
    let Some(certificate) = parse(&text) else {
        return "no readable X.509 certificate in it".to_owned();
    };
    let fields = certificate.tbs_certificate();
    let (subject, issuer) = (fields.subject().to_string(), fields.issuer().to_string());
    let validity = fields.validity();
    let now = SystemTime::now();
    let state = if validity.not_after.to_system_time() < now {
        ", expired"
    } else if validity.not_before.to_system_time() > now {
        ", not valid yet"
    } else {
        ""
    };
    let by = if subject == issuer {
        "self-signed".to_owned()
    } else {
        format!("issued by {issuer}")
    };
    format!(
        "subject {subject}, {by}, valid from {} to {}{state}",
        validity.not_before, validity.not_after
    )
}

/// The first certificate of a PEM text. Lines of any length are taken, unlike RFC 7468 asks.
fn parse(text: &str) -> Option<Certificate> {
    let (_, rest) = text.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let digits: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(digits).ok()?;
    Certificate::from_der(&der).ok()
}
