"""Layouts of two and four processes: how many, and the settings that ask for them."""

LAYOUTS = {
    "tp2": (2, ["parallel=tp2"]),
    "tp2_sp": (2, ["parallel=tp2_sp"]),
    "pp2": (2, ["parallel=pp2"]),
    "dp2": (2, ["parallel=single"]),
    "dp2_overlapped": (2, ["parallel.overlap_grad_reduce=true", "parallel.overlap_param_gather=true"]),
    "tp2_pp2": (4, ["parallel=tp2_pp2"]),
}
