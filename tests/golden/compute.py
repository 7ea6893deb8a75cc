"""Compute improved_diffusion.npz with the authors' code: ``PYTHONPATH=tests:PLACE python tests/golden/compute.py``.

PLACE holds the package ``guided_diffusion``, in which improved-diffusion's U-Net, process and losses live on (here
that of guided-diffusion-sdk 1.0.0). Run on improved-diffusion's own reference values (../shared/golden: other weights
and images), it differs from them by less than 6e-6 in every output, mean, variance, sample and loss, and by less than
2e-6 after each of 100 steps. The tests need neither it nor this file.
"""

import numpy as np
import torch
from guided_diffusion import gaussian_diffusion as gd
from guided_diffusion.unet import UNetModel
from kit.golden import RESULTS, STEPS, images, noise, weights

TABLES = ("betas", "alphas_cumprod", "posterior_variance", "posterior_log_variance_clipped")
TABLES += ("posterior_mean_coef1", "posterior_mean_coef2")

torch.set_num_threads(1)
network = UNetModel(
    image_size=32,
    in_channels=3,
    model_channels=32,
    out_channels=6,
    num_res_blocks=1,
    attention_resolutions=(2, 4),
    channel_mult=(1, 2, 2, 2),
    num_heads=4,
    use_scale_shift_norm=True,
)
network.load_state_dict(weights())
network.eval()
diffusion = gd.GaussianDiffusion(
    betas=gd.get_named_beta_schedule("cosine", 4000),
    model_mean_type=gd.ModelMeanType.EPSILON,
    model_var_type=gd.ModelVarType.LEARNED_RANGE,
    loss_type=gd.LossType.RESCALED_MSE,
    rescale_timesteps=True,
)

rows = np.unique(np.r_[:10, 0:4000:40, 3990:4000])
found = {"rows": rows, **{name: getattr(diffusion, name)[rows] for name in TABLES}}
with torch.inference_mode():
    x_t = diffusion.q_sample(images(), STEPS, noise=noise("reverse step"))
    step = diffusion.p_mean_variance(network, x_t, STEPS, clip_denoised=True)
    sample = step["mean"] + (STEPS > 0).view(-1, 1, 1, 1) * (0.5 * step["log_variance"]).exp() * noise("z")
    found |= {"x_t": x_t, "model_output": network(x_t, STEPS / 4), **step, "sample": sample}
    found |= diffusion.training_losses(network, images(), STEPS, noise=noise("reverse step"))

    x = diffusion.q_sample(images(), torch.full((4,), 99), noise=noise("start"))
    for t in range(99, -1, -1):
        if t in (98, 89, 49, 9):
            found[f"before_{t}"] = x
        step = diffusion.p_mean_variance(network, x, torch.full((4,), t), clip_denoised=True)
        x = step["mean"] + (t > 0) * (0.5 * step["log_variance"]).exp() * noise(f"step {t}")
    found["final"] = x
np.savez_compressed(RESULTS, **{name: np.asarray(value) for name, value in found.items()})
