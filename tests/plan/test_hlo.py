"""Reading the compiler's text: arrays with their padding and their memory, loops with their turns."""

import pytest

from jdistill.plan.hlo import Buffer, buffers, count_runs, executed, fused, parse_hlo
from tests.plan.program import KERNEL_TEXT, TEXT

PROGRAM = parse_hlo(TEXT)


def test_an_array_is_padded_to_tiles_and_lies_in_a_memory():
    assert buffers("f32[8,128]{1,0:T(8,128)}") == (Buffer("f32", (8, 128), 4096, 4096, True),)
    assert buffers("bf16[3,5]{1,0:T(8,128)(2,1)S(1)}") == (Buffer("bf16", (3, 5), 30, 2048, False),)
    assert buffers("f32[4,64,1,384]{3,1,0,2:T(8,128)}") == (Buffer("f32", (4, 64, 1, 384), 393216, 393216, True),)
    assert buffers("f32[64,32,64]{0,2,1:T(8,128)}")[0].padded == 128 * 32 * 64 * 4  # minor to major: 64, 64, 32
    assert buffers("pred[]{:T(512)}") == (Buffer("pred", (), 1, 1, True),)
    assert [b.size for b in buffers("(s32[], /*index=5*/f32[384,1024]{1,0}, s4[7]{0})")] == [4, 1572864, 4]


def test_every_instruction_is_read():
    assert PROGRAM.entry == "main"
    main = PROGRAM.computations["main"]
    assert [i.opcode for i in main.values()][:4] == ["parameter", "parameter", "copy", "add"]
    assert main["loop"].operands == ("first",)
    assert len(main["loop"].results) == 2
    assert main["result"].is_root
    assert list(fused(PROGRAM, main["begun"])) == ["p.2", "gather.1", "start"]


def test_an_instruction_may_go_over_several_lines():
    program = parse_hlo(KERNEL_TEXT)
    body = program.computations["body"]
    assert list(body) == ["state.2", "turn.2", "value", "splash_mha_fwd.11", "attended", "after", "next"]
    assert "splash_mha_fwd/pallas_call" in body["splash_mha_fwd.11"].text
    assert body["splash_mha_fwd.11"].text.count("block_q") == 1
    assert list(program.computations) == ["inside", "condition", "body", "main"]
    assert count_runs(program).times == {"main": 1, "body": 4}


def test_computations_of_other_threads_end_with_their_name():
    other = TEXT.replace("add(%x, %y)\n}", 'add(%x, %y)\n}, execution_thread="sparsecore"')
    assert parse_hlo(other) == PROGRAM


def test_a_loop_runs_as_often_as_its_condition_says():
    runs = count_runs(PROGRAM)
    assert runs.times == {"main": 1, "body": 4}
    assert runs.unknown == ()
    assert [times for instruction, _, times in executed(PROGRAM, runs) if instruction.name == "reduced"] == [4]


def test_the_compilers_own_note_of_turns_counts_first():
    noted = TEXT.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"7"}}')
    assert count_runs(parse_hlo(noted)).times["body"] == 7


def test_a_loop_without_a_number_is_named():
    runs = count_runs(parse_hlo(TEXT.replace("constant(4)", "add(%state.1, %state.1)")))
    assert runs.unknown == ("loop",)
    assert runs.times["body"] == 1


def test_loops_in_loops_multiply():
    inner = "%value = f32[8,128]{1,0:T(8,128)} get-tuple-element(%state.2), index=1\n"
    loop = "  %again = (s32[]{:T(128)}, f32[8,128]{1,0}) while(%state.2), condition=%condition, body=%deep\n"
    deep = TEXT.replace(inner, inner + loop).replace(
        "%body (", "%deep (s: f32[]) -> f32[] {\n  %q = f32[] parameter(0)\n}\n\n%body ("
    )
    assert count_runs(parse_hlo(deep)).times["deep"] == 16


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        parse_hlo("module {}")
