// Convolution and its gradients as implicit products (Chetlur et al. 2014, "cuDNN", section 3): tiles of CV_BM x CV_BN results by 256
// threads, in steps of CV_BK along the sum, the operands' next tiles under way to shared memory in CV_STAGES buffers meanwhile.
//
//   CV_W 0   results: CV_M places (of the images' one group and phase) x CV_N channels; the sum goes over the taps of the kernel and
//            the channels behind each, CV_CP of them (padded to whole pieces). Tiles keep CV_BK of the sum beside each other: 64 bytes a
//            row. B is the packed weights, [channel][tap][CV_CP].
//   CV_W 1   results: CV_M channels of dy x CV_N = taps x CV_CP channels of x; the sum goes over places. Tiles keep CV_BM (CV_BN)
//            channels beside each other: a row a place.
//
// A piece is 16 bytes, CV_E channels of one place. Pieces of a row are permuted so that neither filling nor reading meets a bank twice.
#define CV_AT(tile, row, piece, bytes) ((tile) + (row) * (bytes) + (((piece) ^ ((bytes) == 64 ? (row) >> 1 & 3 : (row) & 7)) * 16))
#define CV_TM (CV_BM / CV_WM)
#define CV_TN (CV_BN * CV_WM / 8)
ZG_SHARED ZG_ALIGN(16) unsigned char tiles[CV_STAGES * (CV_BM + CV_BN) * 64];
ZG_ASYNC(queue);
const int tid = (int)threadIdx.x;
const int n0 = (int)(blockIdx.x % CV_NT) * CV_BN, m0 = (int)(blockIdx.x / CV_NT % CV_MT) * CV_BM;
const int f = (int)(blockIdx.x / CV_NT / CV_MT % CV_PHASES), b = (int)(blockIdx.x / CV_NT / CV_MT / CV_PHASES);
CV_SETUP
const int k_from = (int)blockIdx.y * CV_CHUNK;
int k_to = k_from + CV_CHUNK;
if (k_to > CV_K) k_to = CV_K;
const int steps = k_to > k_from ? (k_to - k_from + CV_BK - 1) / CV_BK : 0;
#if CV_TENSOR
const int lane = tid % 32, wm = tid / 32 % CV_WM, wn = tid / 32 / CV_WM;
float acc[CV_TM / 16][CV_TN / 8][4];
ZG_UNROLL for (int i = 0; i < CV_TM / 16; i++) {
  ZG_UNROLL for (int j = 0; j < CV_TN / 8; j++) {
    ZG_UNROLL for (int c = 0; c < 4; c++) acc[i][j][c] = 0;
  }
}
#else
const int tx = tid % 16, ty = tid / 16;
float acc[CV_BM / 16][CV_BN / 16];
ZG_UNROLL for (int i = 0; i < CV_BM / 16; i++) {
  ZG_UNROLL for (int j = 0; j < CV_BN / 16; j++) acc[i][j] = 0;
}
#endif
#if !CV_W
// Where the rows of A that this thread fills begin.
const CV_T *image[CV_BM / 64];
int y0[CV_BM / 64], y1[CV_BM / 64], y2[CV_BM / 64];
ZG_UNROLL for (int i = 0; i < CV_BM / 64; i++) {
  const int at = tid + i * 256, m = m0 + (CV_A_ACROSS ? at % CV_BM : at / 4), p = m % (CV_R0 * CV_R1 * CV_R2);
  image[i] = CV_A + (m < CV_M ? m / (CV_R0 * CV_R1 * CV_R2) : 0) * CV_A_IMAGE + b * CV_A_CHANNELS * CV_A_CHANNEL;
  y0[i] = m < CV_M ? CV_BASE0(p / (CV_R1 * CV_R2)) : -(1 << 29);
  y1[i] = CV_BASE1(p / CV_R2 % CV_R1);
  y2[i] = CV_BASE2(p % CV_R2);
}
#endif
for (int step = 1 - CV_STAGES; step < steps; step++) {
  if (step >= 0) {
    zg_async_wait(queue, CV_BEHIND);
    zg_sync();
  }
  if (step + CV_STAGES - 1 < steps) {
    unsigned char *const ta = tiles + (step + CV_STAGES - 1) % CV_STAGES * ((CV_BM + CV_BN) * 64), *const tb = ta + CV_BM * 64;
    const int k0 = k_from + (step + CV_STAGES - 1) * CV_BK;
    ZG_UNROLL for (int i = 0; i < CV_BM / 64; i++) {
      const int at = tid + i * 256;
#if CV_W
      const int row = CV_A_ACROSS ? at % CV_BK : at / (CV_BM / CV_E), piece = CV_A_ACROSS ? at / CV_BK : at % (CV_BM / CV_E);
      const int k = k0 + row, c = m0 + piece * CV_E;
      const int live = k < k_to && c < CV_A_CHANNELS;
      const CV_T *from = CV_A + k / CV_PLACES * CV_A_IMAGE + (zg_i64)(b * CV_A_CHANNELS + c) * CV_A_CHANNEL + k % CV_PLACES * CV_A_PLACE;
      unsigned char *to = CV_AT(ta, row, piece, CV_BM * CV_SIZE);
#else
      const int row = CV_A_ACROSS ? at % CV_BM : at / 4, piece = CV_A_ACROSS ? at / CV_BM : at % 4;
      const int k = k0 + piece * CV_E, j = k / CV_CP, c = k % CV_CP;
      const int s0 = CV_FROM0(y0[i], (q0 + j / (t1 * t2) * CV_STEP0)), s1 = CV_FROM1(y1[i], (q1 + j / t2 % t1 * CV_STEP1)),
                s2 = CV_FROM2(y2[i], (q2 + j % t2 * CV_STEP2));
      const int live = k < k_to && (unsigned)s0 < CV_S0 && (unsigned)s1 < CV_S1 && (unsigned)s2 < CV_S2;
      const CV_T *from = image[i] + (live ? c * CV_A_CHANNEL + ((s0 * CV_S1 + s1) * CV_S2 + s2) * CV_A_PLACE : 0);
      unsigned char *to = CV_AT(ta, row, piece, 64);
#endif
#if CV_A_VEC
      zg_async16(queue, to, live ? from : CV_A, live);
#else
      ZG_ALIGN(16) CV_T t[CV_E];
      ZG_UNROLL for (int u = 0; u < CV_E; u++) t[u] = live && c + u < CV_A_CHANNELS ? from[u * CV_A_CHANNEL] : 0;
      zg_ld16(to, t);
#endif
    }
    ZG_UNROLL for (int i = 0; i < (CV_BN + 63) / 64; i++) {
      const int at = tid + i * 256;
      if (CV_BN % 64 && at >= CV_BN * 4) continue;
#if CV_W
      const int row = CV_B_ACROSS ? at % CV_BK : at / (CV_BN / CV_E), piece = CV_B_ACROSS ? at / CV_BK : at % (CV_BN / CV_E);
      const int k = k0 + row, n = n0 + piece * CV_E, j = n / CV_CP, c = n % CV_CP, p = k % CV_PLACES;
      const int s0 = CV_FROM0(CV_BASE0(p / (CV_R1 * CV_R2)), (j / (t1 * t2))), s1 = CV_FROM1(CV_BASE1(p / CV_R2 % CV_R1), (j / t2 % t1)),
                s2 = CV_FROM2(CV_BASE2(p % CV_R2), (j % t2));
      const int live = k < k_to && n < CV_N && (unsigned)s0 < CV_S0 && (unsigned)s1 < CV_S1 && (unsigned)s2 < CV_S2;
      const CV_T *from = CV_B + k / CV_PLACES * CV_B_IMAGE + (zg_i64)(b * CV_C + c) * CV_B_CHANNEL +
                         (live ? ((s0 * CV_S1 + s1) * CV_S2 + s2) * CV_B_PLACE : 0);
      unsigned char *to = CV_AT(tb, row, piece, CV_BN * CV_SIZE);
#if CV_B_VEC
      zg_async16(queue, to, live ? from : CV_B, live);
#else
      ZG_ALIGN(16) CV_T t[CV_E];
      ZG_UNROLL for (int u = 0; u < CV_E; u++) t[u] = live && c + u < CV_C ? from[u * CV_B_CHANNEL] : 0;
      zg_ld16(to, t);
#endif
#else
      const int row = at / 4, piece = at % 4, k = k0 + piece * CV_E, j = k / CV_CP, c = k % CV_CP;
      const int tap = ((q0 + j / (t1 * t2) * CV_STEP0) * CV_K1 + q1 + j / t2 % t1 * CV_STEP1) * CV_K2 + q2 + j % t2 * CV_STEP2;
      const int live = k < k_to && n0 + row < CV_N;
      zg_async16(queue, CV_AT(tb, row, piece, 64), live ? CV_B + (zg_i64)(b * CV_N + n0 + row) * CV_KW + tap * CV_CP + c : CV_B, live);
#endif
    }
  }
  zg_async_commit(queue);
  if (step < 0) continue;
  const unsigned char *const ta = tiles + step % CV_STAGES * ((CV_BM + CV_BN) * 64), *const tb = ta + CV_BM * 64;
#if CV_TENSOR
  ZG_UNROLL for (int kk = 0; kk < 2; kk++) {
    unsigned fa[CV_TM / 16][4], fb[CV_TN / 16][4];
    ZG_UNROLL for (int i = 0; i < CV_TM / 16; i++) {
#if CV_W
      zg_ldmatrix_t(fa[i], CV_AT(ta, kk * 16 + (lane & 7) + (lane >> 4) * 8, (wm * CV_TM + i * 16) / 8 + (lane >> 3 & 1), CV_BM * 2));
#else
      zg_ldmatrix(fa[i], CV_AT(ta, wm * CV_TM + i * 16 + (lane & 15), kk * 2 + (lane >> 4), 64));
#endif
    }
    ZG_UNROLL for (int j = 0; j < CV_TN / 16; j++) {
#if CV_W
      zg_ldmatrix_t(fb[j], CV_AT(tb, kk * 16 + (lane & 15), (wn * CV_TN + j * 16) / 8 + (lane >> 4), CV_BN * 2));
#else
      zg_ldmatrix(fb[j], CV_AT(tb, wn * CV_TN + j * 16 + (lane & 7) + (lane >> 4) * 8, kk * 2 + (lane >> 3 & 1), 64));
#endif
    }
    ZG_UNROLL for (int i = 0; i < CV_TM / 16; i++) {
      ZG_UNROLL for (int j = 0; j < CV_TN / 8; j++) CV_MMA(acc[i][j], fa[i], &fb[j / 2][j % 2 * 2]);
    }
  }
#elif CV_W
  ZG_UNROLL for (int k = 0; k < CV_BK; k++) {
    ZG_ALIGN(16) float x[CV_BM / 16], y[CV_BN / 16];
    ZG_UNROLL for (int i = 0; i < CV_BM / 64; i++) zg_ld16(x + i * 4, CV_AT(ta, k, i * 16 + ty, CV_BM * 4));
    ZG_UNROLL for (int j = 0; j < CV_BN / 64; j++) zg_ld16(y + j * 4, CV_AT(tb, k, j * 16 + tx, CV_BN * 4));
    ZG_UNROLL for (int i = 0; i < CV_BM / 16; i++) {
      ZG_UNROLL for (int j = 0; j < CV_BN / 16; j++) acc[i][j] += x[i] * y[j];
    }
  }
#else
  ZG_NO_UNROLL for (int k = 0; k < 4; k++) {   // unrolled, loads ahead would take twice the registers
    ZG_ALIGN(16) float y[CV_BN / 16][4];
    ZG_UNROLL for (int j = 0; j < CV_BN / 16; j++) zg_ld16(y[j], CV_AT(tb, tx + 16 * j, k, 64));
    ZG_UNROLL for (int i = 0; i < CV_BM / 16; i++) {
      ZG_ALIGN(16) float x[4];
      zg_ld16(x, CV_AT(ta, ty + 16 * i, k, 64));
      ZG_UNROLL for (int u = 0; u < 4; u++) {
        ZG_UNROLL for (int j = 0; j < CV_BN / 16; j++) acc[i][j] += x[u] * y[j][u];
      }
    }
  }
#endif
}
#if CV_TENSOR
ZG_UNROLL for (int i = 0; i < CV_TM / 16; i++) {
  ZG_UNROLL for (int j = 0; j < CV_TN / 8; j++) {
    ZG_UNROLL for (int u = 0; u < 4; u++) {
      const int m = m0 + wm * CV_TM + i * 16 + lane / 4 + u / 2 * 8, n = n0 + wn * CV_TN + j * 8 + lane % 4 * 2 + u % 2;
      const float x = acc[i][j][u];
      if (m < CV_M && n < CV_N) { CV_RESULT }
    }
  }
}
#else
ZG_UNROLL for (int i = 0; i < CV_BM / 16; i++) {
  ZG_UNROLL for (int j = 0; j < CV_BN / 16; j++) {
    const int m = m0 + (CV_W ? i / 4 * 64 + ty * 4 + i % 4 : ty + 16 * i), n = n0 + (CV_W ? j / 4 * 64 + tx * 4 + j % 4 : tx + 16 * j);
    const float x = acc[i][j];
    if (m < CV_M && n < CV_N) { CV_RESULT }
  }
}
#endif
(void)f;
#undef CV_AT
#undef CV_TM
#undef CV_TN
