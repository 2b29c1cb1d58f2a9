"""Scheduled programs of a few lines, as the TPU compiler writes them: a loop of four turns, fusions, collectives."""

TEXT = """\
HloModule jit_train_step, is_scheduled=true, entry_computation_layout={(f32[8,128]{1,0:T(8,128)})->f32[8,128]{1,0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%inside (p.0: f32[8,128], p.1: f32[1000,128]) -> f32[8,128] {
  %p.0 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %p.1 = f32[1000,128]{1,0:T(8,128)} parameter(1)
  %rows = f32[8,128]{1,0:T(8,128)} dynamic-slice(%p.1, %p.0), dynamic_slice_sizes={8,128}
  ROOT %added = f32[8,128]{1,0:T(8,128)} add(%p.0, %rows)
}

%starts (p.2: f32[8,128]) -> (f32[8,128], f32[32,128]) {
  %p.2 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %gather.1 = f32[32,128]{1,0:T(8,128)} all-gather(%p.2), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}, \
backend_config={"async_collective_fusion_config":{"flag_start":"-1","flag_end":"-1"}}
  ROOT %start = (f32[8,128]{1,0:T(8,128)}, f32[32,128]{1,0:T(8,128)}) custom-call(%gather.1), \
custom_call_target="AsyncCollectiveStart"
}

%goes_on (p.3: f32[8,128]) -> f32[32,128] {
  %p.3 = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %gather.2 = f32[32,128]{1,0:T(8,128)} all-gather(%p.3), channel_id=1, replica_groups={{0,1,2,3}}, \
dimensions={0}, backend_config={"async_collective_fusion_config":{"flag_start":"2","flag_end":"8"}}
}

%condition (state.1: (s32[], f32[8,128])) -> pred[] {
  %turns = s32[]{:T(128)} constant(4), metadata={op_name="x"}
  %state.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %turn = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %more = pred[]{:T(512)} compare(%turn, %turns), direction=LT
}

%body (state.2: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %state.2 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %value = f32[8,128]{1,0:T(8,128)} get-tuple-element(%state.2), index=1
  %table = f32[1000,128]{1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  %looked = f32[8,128]{1,0:T(8,128)} fusion(%value, %table), kind=kLoop, calls=%inside
  %reduced = f32[8,128]{1,0:T(8,128)} all-reduce(%looked), channel_id=2, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, to_apply=%add
  ROOT %next = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%value, %reduced)
}

ENTRY %main (arg: f32[8,128], small: bf16[3,5]) -> f32[8,128] {
  %arg = f32[8,128]{1,0:T(8,128)} parameter(0)
  %small = bf16[3,5]{1,0:T(8,128)(2,1)} parameter(1)
  %fast = f32[8,128]{1,0:T(8,128)S(1)} copy(%arg)
  %begun = (f32[8,128]{1,0:T(8,128)}, f32[32,128]{1,0:T(8,128)}) fusion(%arg), kind=kCustom, calls=%starts
  %all = f32[32,128]{1,0:T(8,128)} fusion(%fast), kind=kCustom, calls=%goes_on
  %first = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%small, %arg)
  %loop = (s32[]{:T(128)}, /*index=1*/f32[8,128]{1,0:T(8,128)}) while(%first), condition=%condition, body=%body
  %scattered = f32[8,128]{1,0:T(8,128)} reduce-scatter(%all), channel_id=3, replica_groups=[2,4]<=[8], \
dimensions={0}, to_apply=%add
  ROOT %result = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""

KERNEL_TEXT = """\
HloModule jit_train_step, is_scheduled=true

%inside (p.0: f32[16,256,128]) -> f32[16,256,128] {
  %p.0 = f32[16,256,128]{2,1,0:T(8,128)S(1)} parameter(0)
  ROOT %doubled = f32[16,256,128]{2,1,0:T(8,128)S(1)} add(%p.0, %p.0)
}

%condition (state.1: (s32[], f32[2,12,256,64])) -> pred[] {
  %turns = s32[]{:T(128)} constant(4)
  %state.1 = (s32[]{:T(128)}, f32[2,12,256,64]{3,2,1,0:T(8,128)}) parameter(0)
  %turn = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %more = pred[]{:T(512)} compare(%turn, %turns), direction=LT
}

%body (state.2: (s32[], f32[2,12,256,64])) -> (s32[], f32[2,12,256,64]) {
  %state.2 = (s32[]{:T(128)}, f32[2,12,256,64]{3,2,1,0:T(8,128)}) parameter(0)
  %turn.2 = s32[]{:T(128)} get-tuple-element(%state.2), index=0
  %value = f32[2,12,256,64]{3,2,1,0:T(8,128)} get-tuple-element(%state.2), index=1
  %splash_mha_fwd.11 = (f32[2,256,128]{2,1,0:T(8,128)}, f32[2,12,256,64]{3,2,1,0:T(8,128)}) custom-call(%value), \
custom_call_target="tpu_custom_call", operand_layout_constraints={f32[2,12,256,64]{3,2,1,0}}, \
frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 256, \\"use_fused_bwd_kernel\\": false}"
}}, metadata={op_name="jit(train_step)/while/body/splash_mha_fwd/pallas_call" stack_frame_id=487}, \
backend_config={"flag_configs":[],"custom_call_config":{"body":"TUzvUgFNTElSMjMuMC4wZ2l0AAFRCw==","serialization_format":"1"}}
  %attended = f32[2,12,256,64]{3,2,1,0:T(8,128)} get-tuple-element(%splash_mha_fwd.11), index=1, \
frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 256, \\"use_fused_bwd_kernel\\": false}"
}}
  %after = f32[16,256,128]{2,1,0:T(8,128)S(1)} fusion(%attended), kind=kLoop, calls=%inside
  ROOT %next = (s32[]{:T(128)}, f32[2,12,256,64]{3,2,1,0:T(8,128)}) tuple(%turn.2, %attended)
}

ENTRY %main (arg: f32[2,12,256,64]) -> f32[2,12,256,64] {
  %arg = f32[2,12,256,64]{3,2,1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %first = (s32[]{:T(128)}, f32[2,12,256,64]{3,2,1,0:T(8,128)}) tuple(%zero, %arg)
  %loop = (s32[]{:T(128)}, f32[2,12,256,64]{3,2,1,0:T(8,128)}) while(%first), condition=%condition, body=%body
  ROOT %result = f32[2,12,256,64]{3,2,1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""
"""Attention by a Pallas kernel in a loop: its metadata goes over several lines, some of which begin with a brace."""
