"""User mistakes, and the one line that each of them prints: the source of docs/bad_inputs.md.

    python tests/test_bad_inputs.py        (make bad-inputs: regenerates the page)

Nothing is trained: a case that reaches the loop was not refused, and fails.
"""

import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
import PIL.Image
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/bad_inputs.md"

# What is typed, and part of the line that it prints. The later tables follow a complete command: see `START`. Names
# without a path are in the folder that `world` fills.
COUPLING = "--config=coupling_mnist:tiny --workdir=new --config.data.name=image_folder:pictures"
TARFLOW, SCVAE, HVAE, VQVAE, PIXELCNN, CODES, R3GAN = (
    COUPLING.replace("coupling", name) for name in ("tarflow", "scvae", "hvae", "vqvae", "pixelcnn", "codes", "r3gan")
)
ADAPTIVE = f"{R3GAN} --config.gan.loss=hinge --config.gan.augment=adaptive"
SRRESNET, SRGAN = (COUPLING.replace("coupling_mnist", f"{name}_t91") for name in ("srresnet", "srgan"))
STACKGAN = "--config=stackgan_shapes:tiny --workdir=new --config.data.name=image_folder:unlabelled"
CAPTIONED = STACKGAN.replace("unlabelled", "captioned")
VAE = COUPLING.replace("coupling_mnist", "vae_mnist_dense")
DDGAN, AUTOENCODER = (COUPLING.replace("coupling", name) for name in ("ddgan", "autoencoder"))
MEANFLOW, CONSISTENCY, DISTILLED = (
    COUPLING.replace("coupling", name) for name in ("meanflow", "consistency", "distilled")
)
NO_START = {
    "": "nothing to do",
    "--workdir=nothing": "holds no run",
    "--workdir=cut_short": "cannot read",
    "--config=configs/ddpm_mnits.py": "did you mean ddpm_mnist?",
    "--config=ddpm_mnits:tiny": "did you mean ddpm_mnist?",
    "--config=configs/ddpm_mnist.py:tny": "`:tiny`",
    "--config=no_config.py": "get_config",
    "--config=no_such_key.py": "did you mean batch_size?",
    "--config=no_such_name.py": "line 4, fails: NameError",
    "--config=no_variant.py:tiny": "takes none",
    "--workdir=~no_such_user/run": "give the full path",
    "--config=ddpm_mnist:tiny --workdir=gs://bucket": "give gs://<bucket>/<run>",
    "--workdir=http://host/run --mode=sample": "mount it (rclone mount)",
    "--config=latent_mnist:tiny --config.pretrained=s3://bucket/run --workdir=new": "mount it (mount-s3 or s3fs)",
    "--workdir=run --mode=smaple": "did you mean sample?",
    "--workdir=nothing --mode=sample": "holds no run",
    "--workdir=run --mode=sample": "no checkpoint yet",
    "--workdir=run --mode=sample --config.sample.nun=3": "did you mean sample.num?",
    "--workdir=run --mode=sample --config.seed=1": "cannot be changed",
    "--workdir=run --mode=sample --config.sample.checkpoint=best": "no best checkpoint",
    "--workdir=run --mode=sample --config.sample.checkpoint=300": "no checkpoint of step 300",
    "--workdir=finished --mode=sample --config.sample.guidance=2": "was trained without label dropout",
    "--workdir=finished --mode=sample --config.sample.sampler.eta=0.5": "it belongs to ddim",
    "--workdir=finished --mode=sample --config.sample.sampler=ddim --config.network.channels=4": "cannot be changed",
    "--workdir=nothing --mode=eval": "holds no run",
    "--workdir=nothing --mode=edit": "holds no run",
    "--workdir=a_gan --mode=edit --pictures=unlabelled --mask=left": "cannot edit pictures",
    "--workdir=finished --mode=edit --mask=left": "needs pictures",
    "--workdir=finished --mode=edit --pictures=unlabelled": "there is none",
    "--workdir=finished --mode=edit --pictures=unlabelled --mask=left --strength=0.5": "not --mask and --strength",
    "--workdir=finished --mode=edit --pictures=unlabelled --strength=2": "in 0..1",
    "--workdir=finished --mode=edit --pictures=unlabelled --mask=lift": "did you mean left?",
    "--workdir=finished --mode=edit --pictures=unlabelled --mask=a_file": "is damaged",
    "--workdir=finished --mode=edit --pictures=unlabelled --mask=mixed/0/0.png --labels=1 --each=0": "--each is 0",
    "--workdir=finished --mode=edit --pictures=unlabelled --mask=mixed/1/0.png": "the mask mixed/1/0.png is 20 wide",
    "--workdir=finished --mode=edit --pictures=mixed/1 --mask=left": "crop or resize them first",
    "--workdir=finished --mode=edit --pictures=colour.png --mask=left": "convert them first",
    "--workdir=finished --mode=edit --pictures=nothing --mask=left": "no picture, folder, .npz file or run",
    "--workdir=finished --mode=edit --pictures=unlabelled/0.png --between=5": "two pictures or more",
    "--workdir=finished --mode=sample --mask=left": "is for --mode=edit",
    "--workdir=a_gan --mode=upscale --pictures=unlabelled": "cannot make pictures larger",
    "--workdir=finished --mode=sample --compare": "--compare is for --mode=upscale",
    "--workdir=converted": "not trained further",
    "--workdir=nothing --mode=profile": "holds no run",
    "--workdir=run --mode=profile --config.data.name=mnist": "takes the shapes",
    "--workdir=nothing --mode=export": "holds no run",
    "--workdir=run --mode=export": "no checkpoint yet",
    "--workdir=finished --mode=export --format=onnx": "allowed: safetensors, diffusers, stablehlo",
    "--workdir=finished --mode=export --out=a_file": "is a file: give a folder",
    "--workdir=finished --mode=export --config.batch_size=8": "cannot be changed",
    "--workdir=finished --mode=sample --format=diffusers": "is for --mode=export",
    "--workdir=nothing --mode=report": "no run's directory",
    "--workdir=run --mode=report --config.seed=1": "takes no config values",
    "--mode=compare": "needs two runs or more",
    "--mode=compare run run": "needs two runs or more",
    "--mode=compare run nothing": "holds no run, nor do its folders",
    "--mode=compare --workdir=run": "takes directories and --out, not --workdir",
    "--mode=compare run finished --config.seed=1": "not --config.seed=1",
    "--mode=compare run finished --out=nothing/compare.html": "there is no folder nothing",
    "--workdir=finished --mode=sample --out=compare.html": "is for --mode=upscale or --mode=compare or --mode=export",
    f"{COUPLING} --config.coupling.squeeze=3,3": "images of 28x28 do not divide so",
    f"{COUPLING} --config.sample.temperature=-1": "must not be negative",
    f"{COUPLING} --config.data.name=gaussians:grid25": "needs pictures",
    f"{SCVAE} --config.scvae.lam=-1": "finite and not negative",
    f"{SCVAE} --config.scvae.channels=10": "are squares of 3x3 numbers or more",
    f"{SCVAE} --config.scvae.dictionary.num_atoms=8": "do not span vectors of 9 numbers",
    f"{TARFLOW} --config.tarflow.patch=3": "use one of 1, 2, 4, 7, 14, 28",
    f"{TARFLOW} --config.tarflow.noise.sigma=0": "a standard deviation is positive",
    f"{TARFLOW} --config.data.name=image_folder:unlabelled": "needs labels",
    f"{VAE} --config.vae.conditional=true --config.data.name=image_folder:unlabelled": "needs labels",
    f"{VAE} --config.vae.conditional=true --config.vae.prior=vamp --config.vae.prior.num_components=4": "have no class",
    f"{VAE} --config.vae.objective=factor --config.accumulate=2": "compares the codes of the whole batch",
    f"{HVAE} --config.vae.latents=40": "of z1 and of z2",
    f"{HVAE} --config.vae.prior.num_components=17": "use at most 16",
    f"{PIXELCNN} --config.autoregressive.levels=300": "use 2 to 256",
    f"{PIXELCNN} --config.network.kernel=4": "an odd number",
    f"{PIXELCNN} --config.data.channels=3": "pictures of 3 channels",
    f"{PIXELCNN} --config.data.name=image_folder:unlabelled": "needs labels",
    f"{PIXELCNN} --config.pretrained=run": "a run that is not finished (step 0 of 40)",
    f"{PIXELCNN} --config.pretrained=finished": "is of method ddpm, which makes no codes",
    f"{CODES} --config.autoregressive.levels=16": "it is about grey values",
    f"{VQVAE} --config.vqvae.quantizer.size=5000": "each code starts from a vector of its own",
    f"{VQVAE} --config.vqvae.quantizer.decay=1": "it must be in [0, 1), where 0 trains by gradients",
    f"{VQVAE} --config.vqvae.quantizer.levels=8,8": "it belongs to fsq",
    f"{VQVAE} --config.vqvae.quantizer=fsq --config.vqvae.quantizer.levels=8,1": "each must be 2 or more",
    f"{VQVAE} --config.network.channels=4,4,4,4,4": "smaller than the 32x32 pixels of one code",
    f"{VQVAE} --config.data.name=gaussians:grid25": "needs pictures",
    f"{MEANFLOW} --config.meanflow.equal=2": "it is a share, between 0 and 1",
    f"{MEANFLOW} --config.meanflow.guidance=2": "has no effect with diffusion.label_drop=0.0",
    f"{MEANFLOW} --config.sample.guidance=2": "cannot be guided while it samples",
    f"{CONSISTENCY} --config.consistency.first=1": "2 <= first <= last",
    f"{CONSISTENCY} --config.consistency.sigma_max=0": "0 < sigma_min < sigma_max",
    f"{CONSISTENCY} --config.sample.sampler=heun": "allowed: renoise",
    f"{DISTILLED} --config.distillation.steps=3": "steps times a power of two",
    f"{DISTILLED} --config.pretrained=": "needs a teacher",
    f"{DISTILLED} --config.pretrained=finished --config.distillation.steps=16": "do not part into as many equal steps",
    f"{R3GAN} --config.network.cardinality=3": "does not divide the inner width",
    f"{R3GAN} --config.network.widths=8,8,8,8": "must be multiples of 8",
    f"{R3GAN} --config.gan.augment=diff_augment --config.gan.augment.strength=2": "must be in [0, 1]",
    f"{R3GAN} --config.gan.augment.strength=0.5": "it belongs to diff_augment",
    f"{R3GAN} --config.gan.augment=adaptive": "with the relativistic loss these do not tell real from generated",
    f"{ADAPTIVE} --config.gan.augment.target=1": "a mean of signs is in (-1, 1)",
    f"{ADAPTIVE} --config.gan.augment.images=0": "it must be at least 1",
    f"{R3GAN} --config.gan.burn_in=cosin": "did you mean cosine?",
    f"{R3GAN} --config.gan.burn_in.share=0": "(0, 1]",
    f"{R3GAN} --config.gan.burn_in.b2=1": "[0, 1)",
    f"{R3GAN} --config.gan.penalty=none --config.gan.burn_in.penalty=0.1": "no penalty to weaken",
    f"{R3GAN} --config.optimizer=sgd": "which moves b2",
    f"{R3GAN} --config.sample.truncation=-1": "or 0 for none",
    STACKGAN: "has no captions",
    f"{STACKGAN} --config.data.text=none": "stackgan needs texts",
    f"{STACKGAN} --config.data.text=wrods": "did you mean words?",
    f"{STACKGAN} --config.data.name=image_folder:partly_captioned": "pictures without captions, 7 files",
    f"{STACKGAN} --config.data.name=image_folder:too_many_captions": "captions without pictures, 1 file",
    f"{CAPTIONED} --config.data.text=file": "give an .npz file",
    f"{CAPTIONED} --config.data.text=file --config.data.text.path=a_file": "cannot read embeddings",
    f"{CAPTIONED} --config.data.text=first_stage": "which is no run",
    f"{CAPTIONED} --config.network=second": "give the directory",
    "--config=gan_gaussians:tiny --workdir=new --config.gan.mirror=true": "has no pictures",
    f"{DDGAN} --config.gan.denoising_steps=0": "it must be in 1..1000",
    f"{DDGAN} --config.gan.beta_max=0.01": "0 < beta_min <= beta_max",
    f"{DDGAN} --config.network.discriminator_channels=()": "at least one level",
    f"{DDGAN} --config.data.name=image_folder:unlabelled": "needs labels",
    f"{DDGAN} --config.data.name=gaussians:grid25": "needs pictures",
    f"{AUTOENCODER} --config.autoencoder.channels=0": "at least 1",
    f"{AUTOENCODER} --config.autoencoder.latents.weight=-1": "must not be negative",
    f"{AUTOENCODER} --config.autoencoder.latents.size=64": "it belongs to vq",
    f"{AUTOENCODER} --config.autoencoder.latents=vq --config.autoencoder.latents.size=5000": "a vector of its own",
    f"{AUTOENCODER} --config.autoencoder.perceptual.channels=()": "at least one number",
    f"{AUTOENCODER} --config.autoencoder.adversarial.weight=-1": "must not be negative",
    f"{AUTOENCODER} --config.autoencoder.adversarial=hinge": "allowed: none, patch",
    f"{AUTOENCODER} --config.network.channels=4,4,4,4,4": "smaller than the 32x32 pixels of one code",
    f"{AUTOENCODER} --config.data.name=gaussians:grid25": "needs pictures",
    f"{SRRESNET} --config.data.reduce=3": "it must be 2 or 4",
    f"{SRRESNET} --config.data.reduce=0": "set --config.data.reduce=4, or 2",
    f"{SRRESNET} --config.data.crop=32": "has 28x28 pixels, and config.data.crop is 32",
    f"{SRRESNET} --config.data.crop=18": "does not divide; use 16",
    f"{SRRESNET} --config.data.crop=16 --config.data.name=image_folder:empty": "no pictures",
    f"{SRRESNET} --config.data.name=stroke_digits --config.data.crop=16": "is not a folder of pictures",
    f"{SRRESNET} --config.network.norm=bach": "did you mean batch?",
    f"{SRRESNET} --config.accumulate=2": "batch normalisation would see minibatches",
    f"{SRGAN} --config.pretrained=": "srgan needs an SRResNet",
    f"{SRGAN} --config.superres.adversarial=0": "srresnet trains without",
    f"{SRGAN} --config.superres.content.seed=1 --config.superres.content=pixels": "it belongs to features",
}
BESIDE_START = {
    "seed=1": "did you mean --config.seed?",
    "--sede=1": "did you mean --config.seed?",
    "--confg.seed=1": "did you mean --config.seed?",
    "--num_processes=two": "invalid int value",
    "--num_processes=2": "need --coordinator",
    "--coordinator=localhost:1 --num_processes=2 --process_id=2": "--process_id below it",
    "--coordinator=localhost --num_processes=2 --process_id=0": "is not <host>:<port>",
    "--workdir=a_file/run": "Not a directory",
    "--workdir=in_use": "is in use by process",
    "--workdir=of_mine": "choose another --workdir",
    "--workdir=run --config.seed=1": "seed: 0 -> 1",
    "--workdir=run --config.ema=0.5 --config.batch_size=64": "batch_size: 32 -> 64; ema: 0.998 -> 0.5",
    "--workdir=run --config.data.name=image_folder:unlabelled": "bring that data back",
    "--workdir=of_other_data": "bring that data back",
    "--config.sede=1": "did you mean seed?",
    "--config.learning_rate=1": "did you mean optimizer.learning_rate?",
    "--config.sample=ddim": "is a group; set one of",
    "--config.optimizer": "needs a value",
    "--config.optimizer=adma": "did you mean adam?",
    "--config.seed": "needs a value",
    "--config.seed=one": "a whole number",
    "--config.seed=1.5": "a whole number",
    "--config.seed=-1": "at least 0",
    "--config.seed=4294967296": "at most 4294967295",
    "--config.fast_compile_options=1": "true or false",
    "--config.batch_size=0": "at least 1",
    "--config.batch_size=12": "does not divide over 8 devices",
    "--config.accumulate=5": "not a multiple of accumulate",
    "--config.num_devices=9": "has 8",
    "--config.num_steps=-5": "at least 1",
    "--config.num_steps=3e9": "at most 2147483647",
    "--config.log_every=0": "at least 1",
    "--config.steps_per_call=7": "not a multiple",
    "--config.ema=1.5": "[0, 1)",
    "--config.ema=high": "a number",
    "--config.executor=jitt": "did you mean jit?",
    "--config.sharding=fdsp": "did you mean fsdp?",
    "--config.sharding=fsdp --config.executor=pmap": "use --config.executor=jit",
    "--config.warm_start=nothing": "config.warm_start: nothing holds no run",
    "--config.warm_start=run": "config.warm_start: run holds no checkpoint yet",
    "--config.warm_start=nothing.safetensors": "cannot read the weights file",
    "--config.trackers=wandbb": "did you mean wandb?",
    "--config.trackers=wandb,wandb": "more than once",
    "--config.trackers=mlflow": "which is not installed: pip install 'gen_jax[mlflow]'",
    "--config.compute_dtype=float16": "bfloat16",
    "--config.method=dpm": "did you mean ddpm?",
    "--config.method=vae": "allowed: ddpm",
    "--config.optimizer.name=adma": "did you mean adam?",
    "--config.optimizer.decay=exponential": "allowed: none, linear, cosine",
    "--config.optimizer.decay_share=0": "(0, 1]",
    "--config.optimizer.learning_rate=-1": "not be negative",
    "--config.optimizer.learning_rate=1e999": "finite",
    "--config.optimizer.b2=1": "[0, 1)",
    "--config.optimizer.weight_decay=0.1": "it belongs to adamw",
    "--config.optimizer.lerning_rate=0.1": "did you mean learning_rate?",
    "--config.diffusion.mirror=half": "true or false",
    "--config.diffusion.schedule=cosin": "did you mean cosine?",
    "--config.diffusion.prediction=eps": "use 'v' or 'x'",
    "--config.diffusion.weighting=snr": "did you mean min_snr?",
    "--config.diffusion.num_timesteps=0": "2 or more",
    "--config.sample.sampler=ddimm": "did you mean ddim?",
    "--config.sample.num_steps=0": "0",
    "--config.sample.num_steps=1001": "1000",
    "--config.sample.spacing=even": "trailing",
    "--config.sample.spacing.rho=5": "it belongs to karras",
    "--config.sample.spacing=karras --config.sample.spacing.rho=0": "above 0",
    "--config.sample.spacing=karras --config.sample.spacing.sigma_min=90": "they must fall",
    "--config.sample.sampler=plms --config.sample.sampler.order=5": "PLMS has 1 to 4",
    "--config.sample.sampler=edm --config.sample.sampler.s_min=60": "nor s_min above s_max",
    "--config.diffusion.schedule=variance_preserving --config.diffusion.schedule.beta_min=0": "0 < beta_min",
    "--config.sample.variance=medium": "small",
    "--config.sample.eta=0.5": "it belongs to ddim",
    "--config.sample.guidance=2": "was trained without label dropout",
    "--config.sample.guidance_rescale=2": "between 0 and 1",
    "--config.sample.guidance_rescale=0.7": "has no effect with guidance=1",
    "--config.sample.guidance_interval=0.2,0.8": "has no effect with guidance=1",
    "--config.sample.guidance_interval=0.8,0.2": "the smaller one first",
    "--config.sample.dynamic_threshold=99.5": "between 0 and 1",
    "--config.sample.dynamic_threshold=0.995 --config.sample.clip=false": "has no effect with clip=false",
    "--config.sample.guidance=2 --config.diffusion.conditional=false": "is not conditional",
    "--config.sample.num=0": "at least 1",
    "--config.sample.checkpoint=newest": "best",
    "--config.eval.track=64": "more samples",
    "--config.eval.best=los": "did you mean loss?",
    "--config.eval.best=bound": "which this run does not measure: use --config.eval.best=loss",
    "--config.eval.keep_best=0": "at least 1",
    "--config.eval.patience=3": "which this run does not measure: use --config.eval.best=loss",
    "--config.network.chanels=8": "did you mean channels?",
    "--config.network=unett": "did you mean unet?",
    "--config.network.multipliers=two": "a list of numbers",
    "--config.network.multipliers=()": "at least one level",
    "--config.network.multipliers=(1,1,1,1,1,1)": "smaller than the network's stride",
    "--config.network.num_heads=3": "do not divide into 3 heads",
    "--config.network.norm=batch": "rms",
    "--config.network.norm=group": "do not divide into 32 groups",
    "--config.network.dropout=1": "[0, 1)",
    "--config.data.name=mnits --config.data.data_dir=tfds": "did you mean mnist?",
    "--config.data.name=image_folder:": "names no folder",
    "--config.data.name=image_folder:pictres": "did you mean",
    "--config.data.name=image_folder:a_file": "is a file",
    "--config.data.name=image_folder:empty": "no pictures",
    "--config.data.name=image_folder:unlabelled": "needs labels",
    "--config.data.name=image_folder:mixed": "set --config.data.image_size",
    "--config.data.name=image_folder:damaged": "is damaged",
    "--config.data.name=stacked:": "names no set: use stacked:mnist",
    "--config.data.name=stacked:image_folder:unlabelled": "needs a set with classes",
    "--config.data.name=stacked:mnits --config.data.data_dir=tfds": "did you mean mnist?",
    "--config.data.train_split=trian": "no split 'trian'",
    "--config.data.image_size=-1": "at least 0",
    "--config.data.channels=2": "channels",
    "--config.data.on_error=explode": "on_error",
    "--config.data.stream=true": "leave out data.stream",
}
BESIDE_LATENT = {
    "--config.pretrained=nothing": "holds no run",
    "--config.pretrained=cut_short": "cannot read",
    "--config.pretrained=run": "a run that is not finished (step 0 of 40)",
    "--config.pretrained=of_other_data": "both stages need the same images",
    "--config.pretrained=finished": "names a ddpm that makes no codes",
    "--config.pretrained=": "config.pretrained is empty",
    "--config.pretrained.network=conv": "codes that are small pictures",
    "--config.pretrained=finished --config.pretrained.vae.beta=1": "has no effect with pretrained='finished'",
    "--config.pretrained.seed=1": "no config value 'pretrained.seed'",
    "--config.pretrained.vae.latents=100": "use 98",
    "--config.pretrained.vae.likelihood=gausian": "did you mean gaussian?",
    "--config.pretrained.vae.prior.num_components=9": "it belongs to mixture or vamp",
    "--config.pretrained.network.chanels=8": "did you mean channels?",
    "--config.pretrained.network.hidden=8": "it belongs to dense or conv",
}
BESIDE_SWEEP = {
    "--dry_run": "nothing to sweep over",
    "seed": "'seed' has no values",
    "--seed=0,1": "values are written without dashes",
    "seed=0,1 --paralel=2": "unknown argument '--paralel=2'",
    "seed=0,1 --parallel=0": "it must be at least 1",
    "seed=0,1 --random=3": "there are only 2 combinations",
    "sede=0,1": "did you mean seed?",
    "seed=0,one": "a whole number",
    "seed=0,0": "give each value once",
    "seed=0 seed=1": "is given more than once",
    "seed=0,1 --config.seed=2": "is given more than once",
    "ema=0.5 --config.seed=0,1": "to sweep over it, write seed=0,1",
    "ema=0.5,1.5": "[0, 1)",
    "optimizer=adam,adma": "did you mean adam?",
    "optimizer=adam,sgd optimizer.b2=0.9": "is not a parameter of optimizer sgd",
    "network.multipliers=1,2": "put each of its values into brackets",
    "optimizer.learning_rate=1e-4..1e-2": "is a range: --search=<number of runs> chooses from it",
    "seed=0..9 --search=3": "--search=<number of runs> and --metric=<name> go together",
    "seed=0..9 --search=3 --metric=recall --random=2": "--search does not go with --random",
    "seed=0..9 --search=0 --metric=recall": "it must be at least 1",
    "seed=9..0 --search=3 --metric=recall": "write the smaller number first",
    "ema=0..0.9:log --search=3 --metric=recall": "a logarithmic range starts above 0",
    "ema=0.5..1.5 --search=3 --metric=recall": "[0, 1)",
    "optimizer=adam,adma --search=3 --metric=recall": "did you mean adam?",
    "seed=0,1 --workdir=run": "holds a run",
    "seed=0,1 --workdir=in_use": "is in use by process",
    "seed=0,1 --workdir=a_file": "cannot write a_file",
}
START = "--config=configs/ddpm_mnist.py:tiny --workdir=new --config.data.name=image_folder:pictures"
LATENT = "--config=latent_mnist:tiny --workdir=new --config.data.name=image_folder:pictures"
SWEEP = "gen_jax.sweep --config=ddpm_mnist:tiny --workdir=new"
CASES = NO_START | {
    f"{start} {words}": part
    for start, cases in ((START, BESIDE_START), (LATENT, BESIDE_LATENT), (SWEEP, BESIDE_SWEEP))
    for words, part in cases.items()
}


def write_pictures(folder: pathlib.Path, num: int, size: int = 28) -> None:
    folder.mkdir(parents=True)
    for number in range(num):
        pixels = np.arange(size * size).reshape(size, size) * (number + 1) % 256
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")


@contextlib.contextmanager
def world(folder: pathlib.Path) -> Iterator[None]:
    """Fills a folder with pictures good and bad, and with runs that never trained; a run in it is in use.

    Two have a checkpoint of their last step, in which there is nothing: their models are not asked for.
    """
    import jax
    import jax.numpy as jnp

    from gen_jax.checkpoint import Checkpoints
    from gen_jax.method import State
    from gen_jax.run import Run

    for label in "01":
        write_pictures(folder / f"pictures/train/{label}", 8)
        write_pictures(folder / f"pictures/test/{label}", 2)
    write_pictures(folder / "unlabelled", 8)
    for name, num in (("partly_captioned", 1), ("captioned", 8), ("too_many_captions", 9)):
        write_pictures(folder / name, 8)
        for number in range(num):
            (folder / name / f"{number}.txt").write_text("a picture")
    write_pictures(folder / "mixed/0", 2)
    write_pictures(folder / "mixed/1", 2, size=20)
    write_pictures(folder / "damaged/0", 3)
    damaged = folder / "damaged/0/1.png"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    write_pictures(folder / "of_mine/training/cats", 2)
    (folder / "empty").mkdir()
    (folder / "a_file").write_text("")
    (folder / "no_config.py").write_text("")
    slips = {"no_such_key": "config.batchsize = 16", "no_such_name": "config.batch_size = batch", "no_variant": "pass"}
    for name, line in slips.items():
        imports = "from gen_jax.diffusion.defaults import diffusion_config"
        body = f"def get_config():\n    config = diffusion_config('ddpm')\n    {line}\n    return config\n"
        (folder / f"{name}.py").write_text(f"{imports}\n{body}")
    (folder / "cut_short").mkdir()
    (folder / "cut_short/config.json").write_text('{"name": "ddpm_')
    assert said(f"{START} --workdir=run", folder) == "reached the loop"
    assert said(f"{START.replace('ddpm', 'cgan')} --workdir=a_gan", folder) == "reached the loop"
    PIL.Image.new("RGB", (28, 28), "red").save(folder / "colour.png")
    for name in ("of_other_data", "finished"):
        shutil.copytree(folder / "run", folder / name)
        with Checkpoints(folder / name / "checkpoints") as checkpoints:
            checkpoints.save(State(jnp.int32(40), jax.random.key(0), {"none": jnp.zeros(1)}, {}, {}, {}, {}))
    record = json.loads((folder / "run/config.json").read_text())
    record["data"] |= {"name": "mnist", "fingerprint": "0123456789abcdef"}
    (folder / "of_other_data/config.json").write_text(json.dumps(record))
    shutil.copytree(folder / "run", folder / "converted")
    record["converted"] = {"file": "weights.safetensors"}
    (folder / "converted/config.json").write_text(json.dumps(record))
    with Run(folder / "in_use").lock():
        yield


def said(words: str, folder: pathlib.Path) -> str:
    """Returns what a command line says on stderr, with the exit code where that is not 2; paths in it are bare.

    Its program is `gen_jax.main`, unless it begins with another one.
    """
    from gen_jax import command, main, sweep, train

    def reached(*_: object) -> None:
        raise SystemExit("reached the loop")

    def placed(word: str) -> str:
        """Names of ours become paths into the folder."""
        return re.sub(
            r"(--workdir=|image_folder:|data_dir=|pretrained=|text\.path=|warm_start=|--pictures=|--(?:mask|out)=(?=a_|mixed)|--config=(?=no_)"
            r"|^(?=(run|finished|nothing)$))(?=\w)(?!\w+://)",
            rf"\g<1>{folder}/",
            word,
        )

    patch, errors = pytest.MonkeyPatch(), io.StringIO()
    argv = [placed(word) for word in words.removeprefix("gen_jax.sweep").split()]
    program = sweep if words.startswith("gen_jax.sweep") else main
    with patch.context() as patch, contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["main", *argv])
        patch.setattr(train, "_loop", reached)
        patch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
        try:
            command.run(program.main, "")
            code: object = 0
        except SystemExit as end:
            code = end.code
    text = errors.getvalue() if code == 2 else f"{errors.getvalue()}{code}"
    text = re.sub(r"process \d+ on \S+ \(since [^)]*\)", "process 4711 on host (since 2026-01-01 12:00:00)", text)
    return text.replace(f"{folder}/", "").strip()


def content(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Returns what lies in a folder, but for who trains where: by path, size and time of the last change."""
    found = {path.relative_to(folder): path.stat() for path in folder.rglob("*") if path.name != "lock"}
    return {str(path): (status.st_size, status.st_mtime_ns) for path, status in found.items() if str(path) != "new"}


def answers() -> dict[str, str]:
    """Returns what is said to each of CASES, none of which leaves anything behind."""
    found = {}
    with tempfile.TemporaryDirectory() as name, world(pathlib.Path(name)):
        folder = pathlib.Path(name)
        before = content(folder)
        for words in CASES:
            found[words] = said(words, folder)
            assert content(folder) == before, words
            assert not (folder / "new").exists(), words
    return found


def page(answers: dict[str, str]) -> str:
    """Returns docs/bad_inputs.md."""
    lines = [
        "# Bad inputs and their error messages",
        "",
        "Generated by `make bad-inputs`. A test checks every line, that nothing else is printed, that the exit code",
        "is 2, and that this page is up to date. Mistakes are found before anything is trained or written.",
        "",
        "`run` is a run of the second table's command that has not been trained, `finished` one that has, and",
        "`of_other_data` one with other data; `a_gan` is one of a GAN, `converted` one of published weights. Another",
        "process trains in `in_use`. `of_mine` is a user's folder with pictures in a folder `training`. `unlabelled`,",
        "`mixed`, `damaged` and `empty` are folders of pictures; `captioned`, `partly_captioned` and",
        "`too_many_captions` have captions beside them.",
    ]
    tables = (NO_START, ""), (BESIDE_START, START), (BESIDE_LATENT, LATENT), (BESIDE_SWEEP, SWEEP)
    for cases, start in tables:
        program = "" if start == SWEEP else "gen_jax.main "
        lines += ["", f"After `python -m {program}{start}`, on 8 devices:"] if start else []
        lines += ["", "| input | message |", "| --- | --- |"]
        for words in cases:
            typed = words if start else f"python -m gen_jax.main {words}".strip()
            text = answers[f"{start} {words}" if start else words].removeprefix("gen_jax: ").replace("|", "\\|")
            text = text.replace("<", "&lt;")  # which would start a tag
            lines.append(f"| `{typed}` | {text} |")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module", name="answers")
def _answers():
    return answers()


def test_there_are_more_than_thirty():
    assert len(CASES) > 30


@pytest.mark.parametrize("words", CASES)
def test_a_mistake_is_one_line_and_exit_code_2(answers, words):
    assert CASES[words] in answers[words]
    assert answers[words].startswith("gen_jax: ")
    assert len(answers[words].splitlines()) == 1


def test_the_page_is_up_to_date(answers):
    assert PAGE.read_text("utf-8") == page(answers)


def main() -> None:
    import conftest  # noqa: F401  eight devices

    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        PAGE.write_text(page(answers()), "utf-8")
    print(f"{len(CASES)} bad inputs: {PAGE}")


if __name__ == "__main__":
    main()
