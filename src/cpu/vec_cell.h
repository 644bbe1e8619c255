// Part of vec.c: bodies of recurrent cells. A time step is a product of few rows (the batch) with a weight that
// sits packed in the second cache, and then the cell's arithmetic on what the product left in the first.
#pragma once
#include "cpu/vec.h"
#include "cpu/vec_each.h"
#include "cpu/vec_tile.h"

static void cell_gemm(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b, float *c) {
  const tile_shape s = {k, lda, 1, n, n, false};
  for (int64_t j = 0; j < n; j += 2 * TILE_W) {
    const bool two = n - j >= 2 * TILE_W;
    int64_t i = 0;
#define CELL_ROWS(mr)                                                       \
  for (; i + (mr) <= m; i += (mr)) {                                        \
    if (two) tile_block(mr, 2, &s, a + i * lda, b + j, c + i * n + j);      \
    else tile_block(mr, 1, &s, a + i * lda, b + j, c + i * n + j);          \
  }
    CELL_ROWS(TILE_MR)
    CELL_ROWS(4)
    CELL_ROWS(1)
#undef CELL_ROWS
  }
}

// Each body is written for any n and called with the usual width as a constant too, so that its loop has no tail.
#define CELL_BODY(name, type)                                           \
  static void name(const type *r) {                                     \
    if (r->n == 32) name##_units(r, 32);                                \
    else if (r->n == 16) name##_units(r, 16);                           \
    else name##_units(r, r->n);                                         \
  }
#define CELL_EACH NO_CARRIED_DEPENDENCE for (int64_t j = 0; j < n; j++)
#define CELL_INLINE static inline __attribute__((always_inline))

// ---- forward
CELL_INLINE void tanh_forward_units(const zg_cell_forward *r, int64_t n) {
  for (int64_t i = 0; i < r->m; i++) {
    const float *x = r->x + i * r->H, *p = r->pre + i * r->width;
    float *h = r->h_new + i * r->H;
    CELL_EACH h[j] = m_tanh(x[j] + p[j]);
  }
}
CELL_INLINE void relu_forward_units(const zg_cell_forward *r, int64_t n) {
  for (int64_t i = 0; i < r->m; i++) {
    const float *x = r->x + i * r->H, *p = r->pre + i * r->width;
    float *h = r->h_new + i * r->H;
    CELL_EACH {
      const float y = x[j] + p[j];
      h[j] = y > 0.0f ? y : y != y ? y : 0.0f;
    }
  }
}
CELL_INLINE void lstm_forward_units(const zg_cell_forward *r, int64_t n) {
  const int64_t H = r->H, gate = r->m * r->width;
  for (int64_t i = 0; i < r->m; i++) {
    const float *x = r->x + i * 4 * H, *p = r->pre + i * r->width, *c = r->c + i * H;
    float *h_new = r->h_new + i * H, *c_new = r->c_new + i * H, none[4 * 32], *s = r->saved ? r->saved + i * 4 * H : none;
    const int64_t sg = r->saved ? H : 32;
    CELL_EACH {
      const float in = m_sigmoid(x[j] + p[j]), o = m_sigmoid(x[H + j] + p[gate + j]);
      const float f = m_sigmoid(x[2 * H + j] + p[2 * gate + j]), g = m_tanh(x[3 * H + j] + p[3 * gate + j]);
      const float now = f * c[j] + in * g;
      s[j] = in, s[sg + j] = o, s[2 * sg + j] = f, s[3 * sg + j] = g;
      c_new[j] = now;
      h_new[j] = o * m_tanh(now);
    }
  }
}
CELL_INLINE void gru_forward_units(const zg_cell_forward *r, int64_t n) {
  const int64_t H = r->H, gate = r->m * r->width;
  for (int64_t i = 0; i < r->m; i++) {
    const float *x = r->x + i * 3 * H, *p = r->pre + i * r->width, *h = r->h + i * H, *bias = r->extra;
    float *h_new = r->h_new + i * H, none[4 * 32], *s = r->saved ? r->saved + i * 4 * H : none;
    const int64_t sg = r->saved ? H : 32;
    CELL_EACH {
      const float z = m_sigmoid(x[j] + p[j]), reset = m_sigmoid(x[H + j] + p[gate + j]), q = p[2 * gate + j] + bias[j];
      const float now = m_tanh(x[2 * H + j] + reset * q);
      s[j] = z, s[sg + j] = reset, s[2 * sg + j] = now, s[3 * sg + j] = q;
      h_new[j] = (1.0f - z) * now + z * h[j];
    }
  }
}

// ---- backward
#define CELL_DH(j) (dhs[j] + (rec ? rec[j] : 0.0f))
CELL_INLINE void tanh_backward_units(const zg_cell_backward *r, int64_t n) {
  for (int64_t i = 0; i < r->m; i++) {
    const float *dhs = r->dhs + i * r->H, *rec = r->rec ? r->rec + i * r->width : NULL, *h = r->h_new + i * r->H;
    float *dx = r->dx + i * r->H;
    CELL_EACH dx[j] = CELL_DH(j) * (1.0f - h[j] * h[j]);
  }
}
CELL_INLINE void relu_backward_units(const zg_cell_backward *r, int64_t n) {
  for (int64_t i = 0; i < r->m; i++) {
    const float *dhs = r->dhs + i * r->H, *rec = r->rec ? r->rec + i * r->width : NULL, *h = r->h_new + i * r->H;
    float *dx = r->dx + i * r->H;
    CELL_EACH dx[j] = h[j] > 0.0f ? CELL_DH(j) : 0.0f;
  }
}
CELL_INLINE void lstm_backward_units(const zg_cell_backward *r, int64_t n) {
  const int64_t H = r->H;
  for (int64_t i = 0; i < r->m; i++) {
    const float *dhs = r->dhs + i * H, *rec = r->rec ? r->rec + i * r->width : NULL, *s = r->saved + i * 4 * H;
    const float *c = r->c + i * H, *c_new = r->c_new + i * H, *dcs = r->dcs ? r->dcs + i * H : NULL;
    float *carry = r->carry + i * H, *dx = r->dx + i * 4 * H;
    CELL_EACH {
      const float in = s[j], o = s[H + j], f = s[2 * H + j], g = s[3 * H + j], tc = m_tanh(c_new[j]), dh = CELL_DH(j);
      const float dc = carry[j] + (dcs ? dcs[j] : 0.0f) + dh * o * (1.0f - tc * tc);
      dx[j] = dc * g * in * (1.0f - in);
      dx[H + j] = dh * tc * o * (1.0f - o);
      dx[2 * H + j] = dc * c[j] * f * (1.0f - f);
      dx[3 * H + j] = dc * in * (1.0f - g * g);
      carry[j] = dc * f;
    }
  }
}
CELL_INLINE void gru_backward_units(const zg_cell_backward *r, int64_t n) {
  const int64_t H = r->H;
  for (int64_t i = 0; i < r->m; i++) {
    const float *dhs = r->dhs + i * H, *rec = r->rec ? r->rec + i * r->width : NULL, *s = r->saved + i * 4 * H, *h = r->h + i * H;
    float *carry = r->carry + i * H, *dx = r->dx + i * 3 * H, *dpre = r->dpre + i * 3 * H;
    CELL_EACH {
      const float z = s[j], reset = s[H + j], now = s[2 * H + j], q = s[3 * H + j], dh = CELL_DH(j) + carry[j];
      const float dn = dh * (1.0f - z) * (1.0f - now * now), dz = dh * (h[j] - now) * z * (1.0f - z);
      const float dr = dn * q * reset * (1.0f - reset);
      dx[j] = dz, dx[H + j] = dr, dx[2 * H + j] = dn;
      dpre[j] = dz, dpre[H + j] = dr, dpre[2 * H + j] = dn * reset;
      carry[j] = dh * z;
    }
  }
}

CELL_BODY(tanh_forward, zg_cell_forward)
CELL_BODY(relu_forward, zg_cell_forward)
CELL_BODY(lstm_forward, zg_cell_forward)
CELL_BODY(gru_forward, zg_cell_forward)
CELL_BODY(tanh_backward, zg_cell_backward)
CELL_BODY(relu_backward, zg_cell_backward)
CELL_BODY(lstm_backward, zg_cell_backward)
CELL_BODY(gru_backward, zg_cell_backward)
