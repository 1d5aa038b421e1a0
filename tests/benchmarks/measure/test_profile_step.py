"""Kernels are told apart by their names."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measure.profile_step import Row, by_kind, kind_of, profiled

KERNELS = {
    "nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_NNT": "matrix products",
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64": "matrix products",
    "void cutlass::Kernel2<cutlass_80_tensorop_s16816gemm_bf16_128x128>": "matrix products",
    "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob": "attention",
    "void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel": "attention",
    "triton_tem_fused_flex_attention_0": "attention",
    "triton_red_fused__to_copy_amax_exp_sub_sum_0": "cross entropy",
    "triton_poi_fused_mul_silu_2": "compiled pointwise",
    "void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>": "optimizer",
    "Memcpy DtoD (Device -> Device)": "copies and fills",
    "void at::native::vectorized_elementwise_kernel<4, CUDAFunctor_add<float>>": "other pointwise",
    "ncclDevKernel_AllReduce_Sum_f32_RING_LL": "communication",
    "something_new": "other",
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_kind(kernel: str) -> None:
    assert kind_of(kernel) == KERNELS[kernel]


def test_sums() -> None:
    rows = [Row("nvjet_a", 3.0, 2), Row("Memset (Device)", 9.0, 1), Row("gemm_b", 4.0, 5)]
    assert by_kind(rows) == [Row("copies and fills", 9.0, 1), Row("matrix products", 7.0, 7)]


def test_operators_on_the_cpu() -> None:
    matrix = torch.ones(200, 200)
    rows = profiled(lambda: matrix @ matrix)
    assert {row.name: row.calls for row in by_kind(rows)}["matrix products"] == 1
