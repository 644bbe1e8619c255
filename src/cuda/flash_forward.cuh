// Attention forward on tensor cores (FlashAttention-2, Dao 2023, algorithm 1). A block of 4 warps takes 64 queries of one head, a warp
// 16 of them; keys come in tiles of FA_KT. The body of a kernel; the FA_ names are defined in front of it by emit_flash.c:
//   FA_H, FA_G, FA_T, FA_S          heads, heads per key head, queries, keys
//   FA_D, FA_DP, FA_E, FA_EP        head sizes of q and v, and padded to 16
//   FA_KT                           keys of a tile
//   FA_SCALE, FA_SCORE(x, i, j)     factor of the products; the score of a scaled product (mask, causal), in base e
//   FA_END(i)                       keys that queries up to i see
//   FA_MMA, FA_PACK                 of the element type
ZG_SHARED ZG_ALIGN(16) unsigned short sk[FA_KT * (FA_DP + 8)];
ZG_SHARED ZG_ALIGN(16) unsigned short sv[FA_EP * (FA_KT + 8)];
const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4, warp = (int)threadIdx.x / 32;
const zg_i64 tile = blockIdx.x % FA_TILES, b = blockIdx.x / FA_TILES / FA_H, h = blockIdx.x / FA_TILES % FA_H, hk = h / FA_G;
const zg_i64 i0 = tile * 64 + warp * 16;
const float log2e = 1.4426950408889634f;
unsigned q[FA_DP / 16][4];
float y[FA_EP / 8][4], most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
ZG_UNROLL for (int d = 0; d < FA_DP / 16; d++) zg_fragment(q[d], FA_Q(b, h), i0, FA_T, FA_Q_ROW, FA_Q_COL, d * 16, FA_D);
ZG_UNROLL for (int n = 0; n < FA_EP / 8; n++) {
  ZG_UNROLL for (int c = 0; c < 4; c++) y[n][c] = 0;
}
zg_i64 end = FA_END(tile * 64 + 63);
if (end > FA_S) end = FA_S;
for (zg_i64 j0 = 0; j0 < end; j0 += FA_KT) {
  zg_sync();
  zg_tile(sk, FA_DP + 8, 0, FA_K(b, hk), j0, FA_S, FA_K_ROW, FA_K_COL, FA_KT, FA_D, FA_DP, FA_K_VEC);
  zg_tile(sv, FA_KT + 8, 1, FA_V(b, hk), j0, FA_S, FA_V_ROW, FA_V_COL, FA_KT, FA_E, FA_EP, FA_V_VEC);
  zg_sync();
  float s[FA_KT / 8][4], top[2] = {most[0], most[1]};
  ZG_UNROLL for (int n = 0; n < FA_KT / 8; n++) {
    ZG_UNROLL for (int c = 0; c < 4; c++) s[n][c] = 0;
    ZG_UNROLL for (int d = 0; d < FA_DP / 16; d++) {
      unsigned kb[2];
      zg_fragment_b(kb, sk, FA_DP + 8, n * 8, d * 16);
      FA_MMA(s[n], q[d], kb);
    }
    ZG_UNROLL for (int c = 0; c < 4; c++) {
      const zg_i64 i = i0 + g + c / 2 * 8, j = j0 + n * 8 + 2 * t + c % 2;
      float x = -INFINITY;
      if (i < FA_T && j < FA_S) x = FA_SCORE(s[n][c] * FA_SCALE, i, j) * log2e;
      s[n][c] = x;
      top[c / 2] = zg_rmax_f(top[c / 2], x);
    }
  }
  float keep[2];
  ZG_UNROLL for (int r = 0; r < 2; r++) {
    top[r] = zg_wmax_f(top[r], 4);
    keep[r] = top[r] == -INFINITY ? 1.0f : exp2f(most[r] - top[r]);
    most[r] = top[r];
    sum[r] *= keep[r];
  }
  ZG_UNROLL for (int n = 0; n < FA_KT / 8; n++) {
    ZG_UNROLL for (int c = 0; c < 4; c++) {
      s[n][c] = top[c / 2] == -INFINITY ? 0.0f : exp2f(s[n][c] - top[c / 2]);
      sum[c / 2] += s[n][c];
    }
  }
  ZG_UNROLL for (int n = 0; n < FA_EP / 8; n++) {
    ZG_UNROLL for (int c = 0; c < 4; c++) y[n][c] *= keep[c / 2];
  }
  ZG_UNROLL for (int k = 0; k < FA_KT / 16; k++) {
    const unsigned p[4] = {FA_PACK(s[2 * k][0], s[2 * k][1]), FA_PACK(s[2 * k][2], s[2 * k][3]), FA_PACK(s[2 * k + 1][0], s[2 * k + 1][1]),
                           FA_PACK(s[2 * k + 1][2], s[2 * k + 1][3])};
    ZG_UNROLL for (int n = 0; n < FA_EP / 8; n++) {
      unsigned vb[2];
      zg_fragment_b(vb, sv, FA_KT + 8, n * 8, k * 16);
      FA_MMA(y[n], p, vb);
    }
  }
}
ZG_UNROLL for (int r = 0; r < 2; r++) {
  sum[r] = zg_wsum_f(sum[r], 4);
  const zg_i64 i = i0 + g + r * 8;
  if (i < FA_T && t == 0) FA_PUT_LSE(b, h, i, sum[r] > 0 ? most[r] / log2e + logf(sum[r]) : INFINITY);
}
ZG_UNROLL for (int n = 0; n < FA_EP / 8; n++) {
  ZG_UNROLL for (int c = 0; c < 4; c++) {
    const zg_i64 i = i0 + g + c / 2 * 8;
    const int d = n * 8 + 2 * t + c % 2;
    if (i < FA_T && d < FA_E) FA_PUT_Y(b, h, i, d, sum[c / 2] > 0 ? y[n][c] / sum[c / 2] : 0.0f);
  }
}
