//! A Markdown table between the marks of the chapter, and a chart beside it.

use std::fmt::Write;
use std::fs;
use std::path::Path;

pub struct Row {
    pub name: String,
    pub values: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Better {
    Less,
    More,
}

pub fn write(chapter: &str, title: &str, columns: &[&str], rows: &[Row], better: Better) {
    let table = table(columns, rows);
    println!("{title}\n\n{table}");
    let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("../book/src/sse");
    fs::write(
        book.join(format!("{chapter}-bench.svg")),
        chart(title, columns, rows, better),
    )
    .unwrap();
    let page = book.join(format!("{chapter}.md"));
    let text = fs::read_to_string(&page).unwrap_or_default();
    let (begin, end) = ("<!-- bench -->\n", "<!-- /bench -->");
    let marks = text
        .split_once(begin)
        .and_then(|(before, rest)| rest.split_once(end).map(|(_, after)| (before, after)));
    match marks {
        Some((before, after)) => {
            fs::write(
                &page,
                format!("{before}{begin}{title}:\n\n{table}{end}{after}"),
            )
            .unwrap();
        }
        None => println!("no marks in {}: the table is not written", page.display()),
    }
}

/// Each value, and in brackets its ratio to the first row's.
fn table(columns: &[&str], rows: &[Row]) -> String {
    let mut out = format!(
        "| | {} |\n|---|{}\n",
        columns.join(" | "),
        "---:|".repeat(columns.len())
    );
    for row in rows {
        let cells = row.values.iter().zip(&rows[0].values);
        let cells: Vec<String> = cells
            .map(|(value, first)| format!("{value:.2} ({:.2})", value / first))
            .collect();
        writeln!(out, "| {} | {} |", row.name, cells.join(" | ")).unwrap();
    }
    out
}

/// One group of bars for each column. Text takes the page's colour; the bars are legible on both.
fn chart(title: &str, columns: &[&str], rows: &[Row], better: Better) -> String {
    let (width, label, bar) = (760.0, 330.0, 18.0);
    let group = rows.len() as f64 * bar + 46.0;
    let height = 34.0 + columns.len() as f64 * group;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n<title>{title}</title>\n<style>\n\
         text {{ fill: #24292f }} .bar {{ fill: #8c959f }} .ours {{ fill: #1f7ae0 }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #d8dee4 }} .back {{ fill: #1c2128 }} }}\n\
         </style>\n<rect class=\"back\" width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"#f6f8fa\"/>\n"
    );
    for (column, name) in columns.iter().enumerate() {
        let top = 28.0 + column as f64 * group;
        let direction = if better == Better::Less {
            "less is better"
        } else {
            "more is better"
        };
        writeln!(
            out,
            "<text x=\"14\" y=\"{top}\" font-weight=\"600\">{name} ({direction})</text>"
        )
        .unwrap();
        let most = rows
            .iter()
            .map(|row| row.values[column])
            .fold(0.0, f64::max);
        for (at, row) in rows.iter().enumerate() {
            let y = top + 10.0 + at as f64 * bar;
            let value = row.values[column];
            let length = (value / most * (width - label - 80.0)).max(1.0);
            let class = if ["fanout", "wire", "same"]
                .iter()
                .any(|ours| row.name.contains(ours))
            {
                "ours"
            } else {
                "bar"
            };
            let name = row.name.replace('`', "");
            writeln!(
                out,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>\
                 <rect class=\"{class}\" x=\"{label}\" y=\"{}\" width=\"{length:.1}\" height=\"12\" rx=\"2\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{value:.2}</text>",
                label - 8.0, y + 11.0, y + 1.0, label + length + 6.0, y + 11.0
            )
            .unwrap();
        }
    }
    out.push_str("</svg>\n");
    out
}
