//! The page of lottery tickets.

use secateur::format;
use secateur::lottery::{Kind, Lottery};

use super::super::draw::{Drawing, escape};
use super::super::figures;
use super::super::lottery::{OverSeeds, Paired, Point, Series, Tickets, seeds_of};
use super::page::{Page, command, note, recipe, rows, section, whole};
use super::tables::{named, table};

pub(super) fn page(lottery: &Lottery, tickets: &Tickets) -> String {
    let drawn = |drawings: &[Drawing]| -> String {
        let figures = drawings.iter().map(|d| format!("<figure>{}</figure>\n", d.to_inline_svg()));
        format!("<div class=\"speed\">{}</div>\n", figures.collect::<String>())
    };
    let against_left =
        [figures::ticket_stops(tickets), figures::ticket_values(tickets), figures::ticket_ends(tickets)];
    let stops = drawn(&against_left)
        + &note(
            "Lines: means over seeds; bands: from the least to the greatest. Each line begins with the dense network.",
        );
    let curves = drawn(&figures::curve_panels(tickets))
        + &note("Means over seeds; a colour is a share of weights that are left.");
    let sections = [
        section("stops", "Early stop and accuracy", &stops),
        section("curves", "Accuracy against iterations", &curves),
        section("levels", "All levels", &(levels(tickets) + &note(&escape(tickets.rule())))),
        section("provenance", "Settings and provenance", &provenance(lottery)),
    ];
    whole(&Page {
        subject: &lottery.header.model,
        heading: "Lottery tickets",
        lead: &escape(&tickets.verdict()),
        facts: &facts(lottery, tickets),
        sections: &sections,
        data: None,
    })
}

fn facts(lottery: &Lottery, tickets: &Tickets) -> Vec<(String, String)> {
    let header = &lottery.header;
    let dense = &tickets.series[0].points[0];
    let [train, validation, test] = header.samples.map(|n| format::grouped(n as i64));
    vec![
        ("dense network".into(), tickets.shown(dense.value.mean)),
        ("its early stop".into(), format::grouped(dense.early_stop.mean.round() as i64)),
        ("iterations".into(), format::grouped(header.steps as i64)),
        ("seeds".into(), seeds_of(lottery).to_string()),
        ("pruned per level".into(), format::percent(header.rate)),
        ("samples: training, validation, test".into(), format!("{train}, {validation}, {test}")),
    ]
}

/// Every level of every series.
fn levels(tickets: &Tickets) -> String {
    let heads = [
        "weights left",
        "start",
        "early stop",
        "less dense",
        "measure there",
        "less dense",
        "at the end",
        "",
    ];
    let span = |spread: &OverSeeds, show: &dyn Fn(f64) -> String| match spread.low == spread.high {
        true => show(spread.mean),
        false => format!("{} ({} to {})", show(spread.mean), show(spread.low), show(spread.high)),
    };
    let whole = |v: f64| format::grouped(v.round() as i64);
    let value = |v: f64| tickets.shown(v);
    let paired = |paired: &Paired, show: &dyn Fn(f64) -> String| match paired.standard_error {
        Some(error) => format!("{} ± {}", show(paired.mean), show(error)),
        None => show(paired.mean),
    };
    let row = |series: &Series, point: &Point| {
        let is_dense = point.level == 0;
        let differences = match is_dense {
            true => [String::new(), String::new()],
            false => [paired(&point.early_stop_difference, &whole), paired(&point.value_difference, &value)],
        };
        let [stop, difference] = differences;
        vec![
            format::percent(point.remaining),
            if is_dense { "dense".into() } else { named(series.kind.name(), series.kind as usize) },
            span(&point.early_stop, &whole),
            stop,
            span(&point.value, &value),
            difference,
            span(&point.last, &value),
            if point.matches && !is_dense && series.kind == Kind::Ticket {
                "matches".into()
            } else {
                String::new()
            },
        ]
    };
    let mut body = Vec::new();
    for ticket in &tickets.series[0].points {
        for series in &tickets.series {
            let point = series.points.iter().find(|point| point.level == ticket.level);
            body.extend(
                point.filter(|p| p.level > 0 || series.kind == Kind::Ticket).map(|point| row(series, point)),
            );
        }
    }
    table("wide", &heads.map(String::from), &body)
}

fn provenance(lottery: &Lottery) -> String {
    let header = &lottery.header;
    let settings = [
        ("Model", header.model.clone()),
        ("Data", header.data.clone()),
        ("Method", header.method.clone()),
        ("Initialisation", format!("{:?}", header.init).to_lowercase()),
        ("Rewound to", header.rewind.to_string()),
        ("Version", format!("secateur {}", header.version)),
    ];
    let of_file = if header.recipe["lottery"]["net"].is_string() {
        String::new()
    } else {
        format!(" {}", crate::command::quoted(&header.model))
    };
    let flags = crate::command::flags("lottery", &header.recipe);
    rows(settings.iter().map(|(name, value)| (*name, value.as_str())))
        + &command(&format!("secateur lottery{of_file}{flags} -o FOLDER"))
        + &recipe(&header.recipe)
}
