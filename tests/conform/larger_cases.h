// Cases for devices alone: large enough for several tiles, blocks, chunks and passes of a loop in a kernel,
// at sizes that leave a rest. Floats are written f64 and become what the test runs with.
#pragma once
#include "graph/op.h"

#define ZG__X(shape) "%1 = input name=\"x\" type=f64" shape "\n"
#define ZG__Y(shape) "%2 = input name=\"w\" type=f64" shape "\n"
#define ZG__Z(shape) "%3 = input name=\"z\" type=f64" shape "\n"
#define ZG__I(shape) "%2 = input name=\"i\" type=i64" shape "\n"
#define ZG__OUT(n) "\noutput value \"y\" %" #n

static const zg_op_case larger_cases[] = {
    {.name = "conv",
     .text = ZG__X("[2,11,9,10]") ZG__Y("[19,11,3,3]") "%4 = conv %1, %2 strides=[1,1] "
                                                       "pads=[1,1,1,1] dilations=[1,1]" ZG__OUT(4)},
    {.name = "conv with groups",
     .text = ZG__X("[3,8,13]") ZG__Y("[6,4,9]") "%4 = conv %1, %2 strides=[2] "
                                                "pads=[4,4] dilations=[1] group=2" ZG__OUT(4)},
    {.name = "conv of whole pieces, stride and dilation",
     .text = ZG__X("[2,16,13,11]") ZG__Y("[40,16,3,3]") "%4 = conv %1, %2 strides=[2,1] "
                                                        "pads=[1,2,2,0] dilations=[1,2]" ZG__OUT(4)},
    {.name = "conv 1x1",
     .text = ZG__X("[2,72,9,9]") ZG__Y("[136,72,1,1]") "%4 = conv %1, %2 strides=[1,1] "
                                                       "pads=[0,0,0,0] dilations=[1,1]" ZG__OUT(4)},
    {.name = "conv 1x1, stride",
     .text = ZG__X("[2,24,9,9]") ZG__Y("[40,24,1,1]") "%4 = conv %1, %2 strides=[2,2] "
                                                      "pads=[0,0,0,0] dilations=[1,1]" ZG__OUT(4)},
    {.name = "conv with wide groups",
     .text = ZG__X("[1,48,7,8]") ZG__Y("[32,24,3,2]") "%4 = conv %1, %2 strides=[1,1] "
                                                      "pads=[1,1,1,0] dilations=[1,1] group=2" ZG__OUT(4)},
    {.name = "conv with many places",
     .text = ZG__X("[1,8,40,30]") ZG__Y("[16,8,3,3]") "%4 = conv %1, %2 strides=[1,1] "
                                                      "pads=[1,1,1,1] dilations=[1,1]" ZG__OUT(4)},
    {.name = "conv 3d, stride over some taps",
     .text = ZG__X("[1,9,5,6,7]") ZG__Y("[10,9,1,2,3]") "%4 = conv %1, %2 strides=[2,3,2] "
                                                        "pads=[0,1,1,0,1,1] dilations=[1,1,2]" ZG__OUT(4)},
    {.name = "conv, a channel a group",
     .text = ZG__X("[2,70,6,7]") ZG__Y("[70,1,3,3]") "%4 = conv %1, %2 strides=[1,2] "
                                                     "pads=[1,1,1,1] dilations=[1,1] group=70" ZG__OUT(4)},
    {.name = "matmul", .text = ZG__X("[70,67]") ZG__Y("[67,75]") "%3 = matmul %1, %2" ZG__OUT(3)},
    {.name = "matmul, transposed",
     .text = ZG__X("[2,67,33]") ZG__Y("[2,35,67]") "%3 = matmul %1, %2 ta=1 tb=1" ZG__OUT(3)},
    {.name = "matmul, batches backwards",
     .text = ZG__X("[3,20,17]") ZG__Y("[3,17,24]") "%3 = slice %1 start=[2,0,0] step=[-1,1,1] size=[3,20,17]\n"
                                                  "%4 = matmul %3, %2" ZG__OUT(4)},
    {.name = "scatter rows",
     .text = ZG__X("[37,5]") ZG__I("[700]") ZG__Z("[700,5]") "%4 = scatter %1, %2, %3 red=1" ZG__OUT(4),
     .hi = 36},
    {.name = "scatter wide rows",
     .text = ZG__X("[9,300]") ZG__I("[600]") ZG__Z("[600,300]") "%4 = scatter %1, %2, %3 red=1" ZG__OUT(4),
     .hi = 8},
    {.name = "gather rows",
     .text = ZG__X("[37,65]") ZG__I("[300]") "%3 = gather %1, %2" ZG__OUT(3),
     .hi = 36},
    {.name = "sum of long rows", .text = ZG__X("[3,5003]") "%2 = reduce %1 kind=0 axes=[1]" ZG__OUT(2)},
    {.name = "sum of many rows", .text = ZG__X("[700,33]") "%2 = reduce %1 kind=0 axes=[1]" ZG__OUT(2)},
    {.name = "sum of long columns", .text = ZG__X("[3001,35]") "%2 = reduce %1 kind=0 axes=[0]" ZG__OUT(2)},
    {.name = "sum of all", .text = ZG__X("[7,11,301]") "%2 = reduce %1 kind=0 axes=[0,1,2]" ZG__OUT(2)},
    {.name = "softmax of long rows", .text = ZG__X("[5,2050]") "%2 = softmax %1" ZG__OUT(2)},
    {.name = "softmax of short rows", .text = ZG__X("[300,24]") "%2 = softmax %1" ZG__OUT(2)},
    {.name = "sum with a broadcast",
     .text = ZG__X("[33,16,40]") ZG__Y("[16,1]") "%3 = mul %1, %2" ZG__OUT(3)},
    {.name = "transposed copy", .text = ZG__X("[65,3,40]") "%2 = transpose %1 perm=[2,1,0]" ZG__OUT(2)},
    {.name = "running sum", .text = ZG__X("[3,1030]") "%2 = cumsum %1 axis=1" ZG__OUT(2)},
    {.name = "running sum of columns", .text = ZG__X("[257,6]") "%2 = cumsum %1 axis=0 reverse=1" ZG__OUT(2)},
    {.name = "largest", .text = ZG__X("[4,513]") "%2, %3 = topk %1 axis=1 k=7" ZG__OUT(2)},
    {.name = "attention",
     .text = ZG__X("[1,2,70,32]") ZG__Y("[1,2,70,32]")
         ZG__Z("[1,2,70,32]") "%4, %5 = flash_attention %1, %2, %3 causal=1" ZG__OUT(4)},
    {.name = "attention with grouped heads",
     .text = ZG__X("[2,4,35,64]") ZG__Y("[2,2,90,64]")
         ZG__Z("[2,2,90,40]") "%4, %5 = flash_attention %1, %2, %3 scale=0.2" ZG__OUT(4)},
};
