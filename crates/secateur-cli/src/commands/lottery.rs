//! `secateur lottery`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use secateur::lottery::{self, Header};
use secateur::nets::Net;
use secateur::train::Init;
use secateur::{Error, Model, io};
use secateur_report::lottery::{Tickets, print_tickets};
use secateur_report::write_tickets;

use super::LimitFlags;
use crate::flags::Global;
use crate::progress::Bar;
use crate::recipe::{CalibrateFlags, DataFlags, LotteryFlags, PruneFlags, Recipe, TrainFlags, file_name};
use crate::{interrupt, style};

/// Search for lottery tickets: train, prune, put the kept weights back, and repeat.
#[derive(Args)]
#[command(
    after_help = "Each training has a folder of its own in the output folder, named by its settings: masks, weights before and after \
it, and its curve. If interrupted, run the same command again to resume. Trainings run side by side, one thread each.

Examples:
  secateur lottery --net lenet-300-100 --data train-images-idx3-ubyte.gz \\
      --scale 1/255 --hold-out 5000 --test t10k-images-idx3-ubyte.gz \\
      --epochs 50000it --batch 60 --optimizer adam --lr 0.0012 --lr-schedule constant \\
      --layer 'fc3*=0.1' --levels 15 --seeds 3 -o runs/lenet
  secateur lottery model.onnx --data train.npz --hold-out 0.1 --epochs 30ep \\
      --rewind 2ep --method l1@global --sparsity 0.9 -o runs/model"
)]
pub(crate) struct Lottery {
    /// The model whose graph trains: an ONNX file; see --net for networks without a file
    model: Option<PathBuf>,
    /// Output folder of the experiment
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,
    #[command(flatten)]
    lottery: LotteryFlags,
    #[command(flatten)]
    train: TrainFlags,
    #[command(flatten)]
    prune: PruneFlags,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    calibrate: CalibrateFlags,
    #[command(flatten)]
    limits: LimitFlags,
}

impl Lottery {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let flags = Recipe {
            seed: global.seed,
            prune: self.prune.clone(),
            data: self.data.clone(),
            calibrate: self.calibrate.clone(),
            train: self.train.clone(),
            lottery: self.lottery.clone(),
            ..Recipe::default()
        };
        let recipe = match &global.recipe {
            Some(path) => Recipe::load(path)?.with(&flags)?,
            None => flags,
        };
        super::check_used(&self.prune, &recipe.prune.method)?;
        let (model, name, init) = self.network(&recipe)?;
        let mut options = recipe.lottery_options(init)?;
        options.limits = Some(self.limits.limits());
        let header = Header {
            model: name,
            data: recipe.data_name(),
            samples: [0; 3],
            steps: 0,
            method: options.prune.method.to_string(),
            rate: recipe.rate(),
            rewind: options.rewind,
            init,
            recipe: recipe.as_text().to_json()?,
            version: env!("CARGO_PKG_VERSION").into(),
        };
        interrupt::say(format!(
            "trainings are kept in {} to within a minute; run the same command again to resume",
            self.output.display()
        ));
        let bar = Bar::new();
        let found = lottery::lottery(&model, &options, header, &self.output, &bar)?;
        drop(bar);
        let tickets = Tickets::of(&found)?;
        let files = write_tickets(&found, &tickets, &self.output)?;
        if global.json {
            return super::print_json(&serde_json::json!({
                "folder": super::text(&self.output),
                "files": super::texts(&files),
                "header": found.header,
                "levels": found.levels,
                "summary": tickets,
            }));
        }
        let mut out = style::stdout();
        print_tickets(&found, &tickets, &mut out, style::width(), style::colour())?;
        for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "html")) {
            use std::io::Write;
            writeln!(out, "\nreport: {}", file.display())?;
        }
        Ok(())
    }

    /// The network, its name, and what it begins with.
    fn network(&self, recipe: &Recipe) -> secateur::Result<(Arc<Model>, String, Init)> {
        let asked = recipe.lottery.init;
        match (&self.model, &recipe.lottery.net) {
            (None, Some(name)) => {
                let net = Net::named(name)?;
                if asked == Some(Init::File) {
                    return Err(Error::usage(
                        "--init file takes a model's file; --net has no weights of its own",
                    ));
                }
                Ok((net.model()?, name.clone(), asked.unwrap_or(net.init)))
            }
            (Some(path), _) => {
                let model = super::read(path)?;
                if model.source.format() != Some(&io::ONNX) {
                    let message = "is no ONNX file: what trains is a graph; pass an ONNX export, or --net";
                    return Err(Error::usage(message).at_file(path));
                }
                Ok((Arc::new(model), file_name(path), asked.unwrap_or_default()))
            }
            (None, None) => {
                Err(Error::usage("no network is given: name an ONNX file, or pass --net lenet-300-100"))
            }
        }
    }
}
