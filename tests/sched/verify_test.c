// The schedule verifier: takes a sound schedule, and rejects each broken one with the right message.
#include <check.h>
#include <stdio.h>

#include "sched/sched.h"

#define HEAD "schedule \"t\" rank 0/2 {\n"
#define BUFS                                            \
  "  b1 param device f32[4,4] 64 @0 keep \"w\"\n"       \
  "  b2 input device f32[4,4] 64 @64 keep \"x\"\n"      \
  "  b3 temporary device f32[4,4] 64 @128 \"y\"\n"      \
  "  b4 temporary device f32[4,4] 64 @192 \"z\"\n"
#define ARENA "  arena device 256 bound 256\n"
#define MATMUL(out, a, b) "compute forward matmul " out " <- " a " " b " [m=4 n=4 k=4 alpha=1 beta=0 epilogue=0] flops 128 \"MatMul_1\"\n"
#define RELU(out, in) "compute forward loop " out " <- " in " [space 16 outer 0 mid 0 { 0 = load 1; 1 = relu 0; store 1 -> 0 }] flops 16 \"Relu_2\"\n"
#define FLAT(b) b "{f32 +0 16:1}"

typedef struct { const char *name, *text, *message; } broken;

static const char sound[] = HEAD ARENA BUFS "  segment step\n  0 " MATMUL("b3", "b2", "b1") "  1 " RELU(FLAT("b4"), FLAT("b3"))
    "  2 compute forward release b3\n  end\n  output step value \"y\" f32[4,4] b4\n}\n";

static const broken cases[] = {
    {"read before write", HEAD ARENA BUFS "  segment step\n  0 " RELU(FLAT("b4"), FLAT("b3")) "  end\n}\n", "before anything wrote it"},
    {"use after release", HEAD ARENA BUFS "  segment step\n  0 " MATMUL("b3", "b2", "b1") "  1 compute forward release b3\n  2 " RELU(FLAT("b4"), FLAT("b3")) "  end\n}\n", "after its release"},
    {"release of a param", HEAD ARENA BUFS "  segment step\n  0 compute forward release b1\n  end\n}\n", "persistent"},
    {"overlap of live buffers", HEAD ARENA "  b1 param device f32[4,4] 64 @0 keep \"w\"\n  b2 input device f32[4,4] 64 @64 keep \"x\"\n  b3 temporary device f32[4,4] 64 @32 \"y\"\n"
      "  segment step\n  0 " MATMUL("b3", "b2", "b1") "  end\n}\n", "overlap in memory"},
    {"beyond the arena", HEAD "  arena device 128 bound 128\n" BUFS "  segment step\n  0 " MATMUL("b3", "b2", "b1") "  end\n}\n", "beyond its arena"},
    {"view outside its buffer", HEAD ARENA BUFS "  segment step\n  0 " MATMUL("b3", "b2{f32 +8 4,4:4,1}", "b1") "  end\n}\n", "reaches elements"},
    {"matmul of other shapes", HEAD ARENA BUFS "  segment step\n  0 " MATMUL("b3", "b2{f32 +0 4,2:4,1}", "b1") "  end\n}\n", "argument 1 of matmul"},
    {"missing wait", HEAD ARENA BUFS "  segment step\n  0 " MATMUL("b3", "b2", "b1") "  1 comm forward all_reduce b3\n  2 " RELU(FLAT("b4"), FLAT("b3")) "  end\n}\n", "a wait is missing"},
};

static zg_status verify(const char *text) {
  zg_sched *s = NULL;
  ZG_TRY(zg_sched_parse(text, "test", &s));
  zg_status status = zg_sched_verify(s);
  zg_sched_free(s);
  return status;
}

START_TEST(accepts_a_sound_one) {
  zg_status s = verify(sound);
  ck_assert_msg(!s, "%s", zg_status_message(s));
}
END_TEST

START_TEST(accepts_ordered_streams) {
  zg_status s = verify(HEAD ARENA BUFS "  segment step\n  0 " MATMUL("b3", "b2", "b1")
                       "  1 compute forward record event 1\n  2 comm forward wait event 1\n  3 comm forward all_reduce b3\n"
                       "  4 comm forward record event 2\n  5 compute forward wait event 2\n  6 " RELU(FLAT("b4"), FLAT("b3")) "  end\n}\n");
  ck_assert_msg(!s, "%s", zg_status_message(s));
}
END_TEST

START_TEST(rejects_broken_ones) {
  const broken *c = &cases[_i];
  zg_status s = verify(c->text);
  ck_assert_msg(s != NULL, "%s: accepted", c->name);
  ck_assert_msg(strstr(zg_status_message(s), c->message) != NULL, "%s: says \"%s\", want \"%s\"", c->name, zg_status_message(s), c->message);
  zg_status_free(s);
}
END_TEST

// Damaged text is refused or, where the damage says nothing wrong, accepted; it never crashes.
START_TEST(survives_damage) {
  char text[sizeof sound];
  for (size_t i = 0; i < sizeof sound - 1; i++)
    for (int k = 0; k < 3; k++) {
      memcpy(text, sound, sizeof sound);
      text[i] = k == 0 ? '\0' : k == 1 ? '9' : (char)(text[i] ^ 0x15);
      zg_status_free(verify(text));
    }
}
END_TEST

int main(void) {
  Suite *s = suite_create("verify");
  TCase *t = tcase_create("verify");
  tcase_add_test(t, accepts_a_sound_one);
  tcase_add_test(t, accepts_ordered_streams);
  tcase_add_loop_test(t, rejects_broken_ones, 0, (int)ZG_COUNT(cases));
  tcase_add_test(t, survives_damage);
  suite_add_tcase(s, t);
  SRunner *r = srunner_create(s);
  srunner_run_all(r, CK_NORMAL);
  int failed = srunner_ntests_failed(r);
  srunner_free(r);
  return failed != 0;
}
