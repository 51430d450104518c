//! One page that stands alone.

use super::view::View;
use crate::schema::GuestReport;
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};

pub(super) const STYLE: &str = include_str!("templates/style.css");

/// One self-contained HTML page: no script, no font, nothing fetched; light and dark; for screen, print and screen
/// readers. Text of guests is escaped, and a policy in the page forbids scripts and the network.
///
/// # Panics
/// Never: the template is compiled in and rendered with its full context by the tests.
#[must_use]
pub fn html(report: &GuestReport) -> String {
    let view = Value::from(Serde(View::new(report)));
    environment()
        .get_template("guest.html")
        .expect("the template is compiled in")
        .render(context! { style => Value::from_safe_string(STYLE.to_owned()), ..view })
        .expect("the template is rendered by the tests")
}

/// The templates; names that end in `.html` and `.xml` are escaped.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    for (name, text) in [
        ("macros.html", include_str!("templates/macros.html")),
        ("estate.html", include_str!("templates/estate.html")),
        ("guest.html", include_str!("templates/guest.html")),
        ("guest.xml", include_str!("templates/guest.xml")),
    ] {
        environment
            .add_template(name, text)
            .expect("the template is parsed by the tests");
    }
    environment
}
