// Gradients of keys and values on tensor cores (FlashAttention-2, Dao 2023, algorithm 2, by key tiles). A block takes 64 keys of one
// key head, a warp 16 of them, and walks the queries of all heads of the group in tiles of FA_KT; products are transposed, keys down.
ZG_SHARED ZG_ALIGN(16) unsigned short sq[FA_KT * (FA_DP + 8)];
ZG_SHARED ZG_ALIGN(16) unsigned short sqt[FA_DP * (FA_KT + 8)];
ZG_SHARED ZG_ALIGN(16) unsigned short sy[FA_KT * (FA_EP + 8)];
ZG_SHARED ZG_ALIGN(16) unsigned short syt[FA_EP * (FA_KT + 8)];
ZG_SHARED float slse[FA_KT];
ZG_SHARED float sdelta[FA_KT];
const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4, warp = (int)threadIdx.x / 32;
const zg_i64 tile = blockIdx.x % FA_TILES, b = blockIdx.x / FA_TILES / FA_HK, hk = blockIdx.x / FA_TILES % FA_HK;
const zg_i64 k0 = tile * 64 + warp * 16;
unsigned kf[FA_DP / 16][4], vf[FA_EP / 16][4];
float dk[FA_DP / 8][4], dv[FA_EP / 8][4];
ZG_UNROLL for (int d = 0; d < FA_DP / 16; d++) zg_fragment(kf[d], FA_K(b, hk), k0, FA_S, FA_K_ROW, FA_K_COL, d * 16, FA_D);
ZG_UNROLL for (int d = 0; d < FA_EP / 16; d++) zg_fragment(vf[d], FA_V(b, hk), k0, FA_S, FA_V_ROW, FA_V_COL, d * 16, FA_E);
ZG_UNROLL for (int n = 0; n < FA_DP / 8; n++) {
  ZG_UNROLL for (int c = 0; c < 4; c++) dk[n][c] = 0;
}
ZG_UNROLL for (int n = 0; n < FA_EP / 8; n++) {
  ZG_UNROLL for (int c = 0; c < 4; c++) dv[n][c] = 0;
}
zg_i64 begin = FA_BEGIN(tile * 64);
begin = begin < 0 ? 0 : begin / FA_KT * FA_KT;
for (zg_i64 h = hk * FA_G; h < (hk + 1) * FA_G; h++) {
  for (zg_i64 i0 = begin; i0 < FA_T; i0 += FA_KT) {
    zg_sync();
    zg_tile(sq, FA_DP + 8, 0, FA_Q(b, h), i0, FA_T, FA_Q_ROW, FA_Q_COL, FA_KT, FA_D, FA_DP, FA_Q_VEC);
    zg_tile(sqt, FA_KT + 8, 1, FA_Q(b, h), i0, FA_T, FA_Q_ROW, FA_Q_COL, FA_KT, FA_D, FA_DP, FA_Q_VEC);
    zg_tile(sy, FA_EP + 8, 0, FA_DY(b, h), i0, FA_T, FA_DY_ROW, FA_DY_COL, FA_KT, FA_E, FA_EP, FA_DY_VEC);
    zg_tile(syt, FA_KT + 8, 1, FA_DY(b, h), i0, FA_T, FA_DY_ROW, FA_DY_COL, FA_KT, FA_E, FA_EP, FA_DY_VEC);
    {
      const int lanes = 128 / FA_KT, row = (int)threadIdx.x / lanes;
      const zg_i64 i = i0 + row;
      float x = 0;
      for (int e = (int)threadIdx.x % lanes; i < FA_T && e < FA_E; e += lanes) x += FA_GET_Y(b, h, i, e) * FA_GET_DY(b, h, i, e);
      x = zg_wsum_f(x, lanes);
      sdelta[row] = x;
      slse[row] = i < FA_T ? FA_GET_LSE(b, h, i) : INFINITY;
    }
    zg_sync();
    float p[FA_KT / 8][4], s[FA_KT / 8][4];
    ZG_UNROLL for (int n = 0; n < FA_KT / 8; n++) {
      float dp[4] = {0, 0, 0, 0};
      ZG_UNROLL for (int c = 0; c < 4; c++) s[n][c] = 0;
      ZG_UNROLL for (int d = 0; d < FA_DP / 16; d++) {
        unsigned qb[2];
        zg_fragment_b(qb, sq, FA_DP + 8, n * 8, d * 16);
        FA_MMA(s[n], kf[d], qb);
      }
      ZG_UNROLL for (int d = 0; d < FA_EP / 16; d++) {
        unsigned yb[2];
        zg_fragment_b(yb, sy, FA_EP + 8, n * 8, d * 16);
        FA_MMA(dp, vf[d], yb);
      }
      ZG_UNROLL for (int c = 0; c < 4; c++) {
        const int row = n * 8 + 2 * t + c % 2;
        const zg_i64 i = i0 + row, j = k0 + g + c / 2 * 8;
        float w = 0;
        if (i < FA_T && j < FA_S) w = expf(FA_SCORE(s[n][c] * FA_SCALE, i, j) - slse[row]);
        p[n][c] = w;
        s[n][c] = w * (dp[c] - sdelta[row]) * FA_SCALE;
      }
    }
    ZG_UNROLL for (int k = 0; k < FA_KT / 16; k++) {
      const unsigned pf[4] = {FA_PACK(p[2 * k][0], p[2 * k][1]), FA_PACK(p[2 * k][2], p[2 * k][3]), FA_PACK(p[2 * k + 1][0], p[2 * k + 1][1]),
                              FA_PACK(p[2 * k + 1][2], p[2 * k + 1][3])};
      const unsigned sf[4] = {FA_PACK(s[2 * k][0], s[2 * k][1]), FA_PACK(s[2 * k][2], s[2 * k][3]), FA_PACK(s[2 * k + 1][0], s[2 * k + 1][1]),
                              FA_PACK(s[2 * k + 1][2], s[2 * k + 1][3])};
      ZG_UNROLL for (int n = 0; n < FA_EP / 8; n++) {
        unsigned yb[2];
        zg_fragment_b(yb, syt, FA_KT + 8, n * 8, k * 16);
        FA_MMA(dv[n], pf, yb);
      }
      ZG_UNROLL for (int n = 0; n < FA_DP / 8; n++) {
        unsigned qb[2];
        zg_fragment_b(qb, sqt, FA_KT + 8, n * 8, k * 16);
        FA_MMA(dk[n], sf, qb);
      }
    }
  }
}
ZG_UNROLL for (int n = 0; n < FA_DP / 8; n++) {
  ZG_UNROLL for (int c = 0; c < 4; c++) {
    const zg_i64 j = k0 + g + c / 2 * 8;
    const int d = n * 8 + 2 * t + c % 2;
    if (j < FA_S && d < FA_D) FA_PUT_DK(b, hk, j, d, dk[n][c]);
  }
}
ZG_UNROLL for (int n = 0; n < FA_EP / 8; n++) {
  ZG_UNROLL for (int c = 0; c < 4; c++) {
    const zg_i64 j = k0 + g + c / 2 * 8;
    const int d = n * 8 + 2 * t + c % 2;
    if (j < FA_S && d < FA_E) FA_PUT_DV(b, hk, j, d, dv[n][c]);
  }
}
