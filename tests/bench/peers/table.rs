//! The figures of all rounds, and the table of their medians.

#[derive(Default)]
pub struct Table {
    rows: Vec<&'static str>,
    columns: Vec<&'static str>,
    figures: Vec<(&'static str, &'static str, f64)>,
}

impl Table {
    pub fn add(&mut self, row: &'static str, column: &'static str, figure: f64) {
        if !self.rows.contains(&row) {
            self.rows.push(row);
        }
        if !self.columns.contains(&column) {
            self.columns.push(column);
        }
        self.figures.push((row, column, figure));
    }

    fn median(&self, row: &str, column: &str) -> Option<f64> {
        let own = self
            .figures
            .iter()
            .filter(|(of, what, _)| *of == row && *what == column);
        let mut figures: Vec<f64> = own.map(|(_, _, figure)| *figure).collect();
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied()
    }

    /// A line a figure; with its ratio to nginx's, where there is one.
    pub fn print(&self) {
        let cells = self
            .rows
            .iter()
            .map(|row| format!("{row:>20}"))
            .collect::<String>();
        println!("{:<22}{cells}", "");
        for column in &self.columns {
            let nginx = self.median("nginx", column);
            let cell = |row: &&str| match (self.median(row, column), nginx) {
                (None, _) => format!("{:>20}", "-"),
                (Some(figure), Some(nginx)) => format!("{:>12} ({:>4.2}x)", short(figure), figure / nginx),
                (Some(figure), None) => format!("{:>20}", short(figure)),
            };
            println!("{column:<22}{}", self.rows.iter().map(cell).collect::<String>());
        }
    }
}

/// Three figures or so.
fn short(figure: f64) -> String {
    match figure.abs() {
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}
