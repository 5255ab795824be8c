//! The figures of a report.

mod axes;
mod curves;
mod heat;
mod histograms;
mod lines;
mod operating;
mod panels;
mod speed;
mod tickets;
mod training;

pub use curves::{X, accuracy_figure, loss_figure};
pub(super) use curves::{Y, chart};
pub(super) use heat::{layer_sparsity, sensitivity_chart};
pub use heat::{layers_figure, sensitivity_figure};
pub use histograms::histograms_figure;
pub(super) use histograms::{AREA, BASE, histogram_panels, largest, shown_layers, weights_panel};
pub(super) use operating::operating_chart;
pub use operating::operating_figure;
pub use panels::{SizeSeries, exponentials_figure, sizes_figure};
pub(super) use panels::{exponential_panels, size_legend, size_panels};
pub use speed::{SpeedPanel, SpeedSeries, speed_figure};
pub(super) use speed::{speed_legend, speed_panels};
pub(super) use tickets::curve_panels;
pub use tickets::{ticket_curves, ticket_ends, ticket_stops, ticket_values};
pub use training::training_figure;
pub(super) use training::training_panels;
