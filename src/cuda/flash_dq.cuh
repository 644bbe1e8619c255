// Gradient of the queries on tensor cores (FlashAttention-2, Dao 2023, algorithm 2, by query tiles): as flash_forward.cuh, with the
// weights from the saved logarithms of sums. FA_DY, FA_Y: like FA_Q.
ZG_SHARED ZG_ALIGN(16) unsigned short sk[FA_KT * (FA_DP + 8)];
ZG_SHARED ZG_ALIGN(16) unsigned short st[FA_DP * (FA_KT + 8)];
ZG_SHARED ZG_ALIGN(16) unsigned short sv[FA_KT * (FA_EP + 8)];
const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4, warp = (int)threadIdx.x / 32;
const zg_i64 tile = blockIdx.x % FA_TILES, b = blockIdx.x / FA_TILES / FA_H, h = blockIdx.x / FA_TILES % FA_H, hk = h / FA_G;
const zg_i64 i0 = tile * 64 + warp * 16;
unsigned q[FA_DP / 16][4], dy[FA_EP / 16][4];
float dq[FA_DP / 8][4], lse[2], delta[2] = {0, 0};
ZG_UNROLL for (int d = 0; d < FA_DP / 16; d++) zg_fragment(q[d], FA_Q(b, h), i0, FA_T, FA_Q_ROW, FA_Q_COL, d * 16, FA_D);
ZG_UNROLL for (int d = 0; d < FA_EP / 16; d++) zg_fragment(dy[d], FA_DY(b, h), i0, FA_T, FA_DY_ROW, FA_DY_COL, d * 16, FA_E);
ZG_UNROLL for (int n = 0; n < FA_DP / 8; n++) {
  ZG_UNROLL for (int c = 0; c < 4; c++) dq[n][c] = 0;
}
ZG_UNROLL for (int r = 0; r < 2; r++) {
  const zg_i64 i = i0 + g + r * 8;
  for (int e = t; i < FA_T && e < FA_E; e += 4) delta[r] += FA_GET_Y(b, h, i, e) * FA_GET_DY(b, h, i, e);
  delta[r] = zg_wsum_f(delta[r], 4);
  lse[r] = i < FA_T ? FA_GET_LSE(b, h, i) : INFINITY;
}
zg_i64 end = FA_END(tile * 64 + 63);
if (end > FA_S) end = FA_S;
for (zg_i64 j0 = 0; j0 < end; j0 += FA_KT) {
  zg_sync();
  zg_tile(sk, FA_DP + 8, 0, FA_K(b, hk), j0, FA_S, FA_K_ROW, FA_K_COL, FA_KT, FA_D, FA_DP, FA_K_VEC);
  zg_tile(st, FA_KT + 8, 1, FA_K(b, hk), j0, FA_S, FA_K_ROW, FA_K_COL, FA_KT, FA_D, FA_DP, FA_K_VEC);
  zg_tile(sv, FA_EP + 8, 0, FA_V(b, hk), j0, FA_S, FA_V_ROW, FA_V_COL, FA_KT, FA_E, FA_EP, FA_V_VEC);
  zg_sync();
  float s[FA_KT / 8][4];
  ZG_UNROLL for (int n = 0; n < FA_KT / 8; n++) {
    float dp[4] = {0, 0, 0, 0};
    ZG_UNROLL for (int c = 0; c < 4; c++) s[n][c] = 0;
    ZG_UNROLL for (int d = 0; d < FA_DP / 16; d++) {
      unsigned kb[2];
      zg_fragment_b(kb, sk, FA_DP + 8, n * 8, d * 16);
      FA_MMA(s[n], q[d], kb);
    }
    ZG_UNROLL for (int d = 0; d < FA_EP / 16; d++) {
      unsigned vb[2];
      zg_fragment_b(vb, sv, FA_EP + 8, n * 8, d * 16);
      FA_MMA(dp, dy[d], vb);
    }
    ZG_UNROLL for (int c = 0; c < 4; c++) {
      const zg_i64 i = i0 + g + c / 2 * 8, j = j0 + n * 8 + 2 * t + c % 2;
      float x = 0;
      if (i < FA_T && j < FA_S) x = expf(FA_SCORE(s[n][c] * FA_SCALE, i, j) - lse[c / 2]) * (dp[c] - delta[c / 2]) * FA_SCALE;
      s[n][c] = x;
    }
  }
  ZG_UNROLL for (int k = 0; k < FA_KT / 16; k++) {
    const unsigned p[4] = {FA_PACK(s[2 * k][0], s[2 * k][1]), FA_PACK(s[2 * k][2], s[2 * k][3]), FA_PACK(s[2 * k + 1][0], s[2 * k + 1][1]),
                           FA_PACK(s[2 * k + 1][2], s[2 * k + 1][3])};
    ZG_UNROLL for (int n = 0; n < FA_DP / 8; n++) {
      unsigned kb[2];
      zg_fragment_b(kb, st, FA_KT + 8, n * 8, k * 16);
      FA_MMA(dq[n], p, kb);
    }
  }
}
ZG_UNROLL for (int n = 0; n < FA_DP / 8; n++) {
  ZG_UNROLL for (int c = 0; c < 4; c++) {
    const zg_i64 i = i0 + g + c / 2 * 8;
    const int d = n * 8 + 2 * t + c % 2;
    if (i < FA_T && d < FA_D) FA_PUT_DQ(b, h, i, d, dq[n][c]);
  }
}
