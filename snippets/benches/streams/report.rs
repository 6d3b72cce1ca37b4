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
    fill(chapter, title, &table, &chart(title, columns, rows, better));
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

/// The table of the event streams: CPU with its ratio to the floor, memory as it is.
pub fn streams(subscribers: usize, idle: usize, rows: &[Row]) {
    let title = format!(
        "{subscribers} subscribers, events of 100 bytes, {idle} idle connections, one worker thread, loopback; CPU as a \
         multiple of the floor (one bare `write` per subscriber and event)"
    );
    let mut table = String::from(
        "| | CPU per delivery, 1 in flight | 4 in flight | KiB per idle connection | after a storm |\n\
         |---|---:|---:|---:|---:|\n",
    );
    let number = |value: f64, digits: usize| match value.is_nan() || value == 0.0 {
        true => "–".to_owned(),
        false => format!("{value:.digits$}"),
    };
    for row in rows {
        let [one, four, idle, storm] = row.values[..] else {
            panic!("four columns")
        };
        let cells = [(one, 2), (four, 2), (idle, 1), (storm, 1)];
        let cells = cells.map(|(value, digits)| number(value, digits));
        writeln!(table, "| {} | {} |", row.name, cells.join(" | ")).unwrap();
    }
    let numbers: Vec<_> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "name": row.name,
                "ratio": row.values[..2],
                "kib": row.values[2..],
            })
        })
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let numbers = serde_json::to_string_pretty(&numbers).unwrap();
    fs::write(root.join("target/streams.json"), numbers).unwrap();
    let columns = [
        "CPU per delivery as a multiple of the floor, one event in flight",
        "KiB per idle connection",
    ];
    let charted: Vec<Row> = rows
        .iter()
        .map(|row| Row {
            name: row.name.clone(),
            values: vec![row.values[0], row.values[2]],
        })
        .collect();
    fill(
        "fanout",
        &title,
        &table,
        &chart(&title, &columns, &charted, Better::Less),
    );
}

fn fill(chapter: &str, title: &str, table: &str, chart: &str) {
    println!("{title}\n\n{table}");
    let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("../book/src/sse");
    fs::write(book.join(format!("{chapter}-bench.svg")), chart).unwrap();
    let page = book.join(format!("{chapter}.md"));
    let text = fs::read_to_string(&page).unwrap_or_default();
    let (begin, end) = ("<!-- bench -->\n", "<!-- /bench -->");
    let marks = text
        .split_once(begin)
        .and_then(|(before, rest)| rest.split_once(end).map(|(_, after)| (before, after)));
    match marks {
        Some((before, after)) => {
            let text = format!("{before}{begin}{title}:\n\n{table}{end}{after}");
            fs::write(&page, text).unwrap();
        }
        None => println!("no marks in {}: the table is not written", page.display()),
    }
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
            let class = if ["sse/", "wire", "same"]
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
