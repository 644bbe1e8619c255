// Build tool: writes a file as a C array. usage: embed IN OUT NAME
#include <stdio.h>

int main(int argc, char **argv) {
  FILE *in = argc == 4 ? fopen(argv[1], "rb") : NULL, *out = in ? fopen(argv[2], "w") : NULL;
  if (!out) return 1;
  fprintf(out, "extern const char %s[];\nconst char %s[] = {", argv[3], argv[3]);
  for (int c, n = 0; (c = fgetc(in)) != EOF; n++) fprintf(out, "%s%d,", n % 24 ? "" : "\n", c > 127 ? c - 256 : c);
  fprintf(out, "0};\n");
  return fclose(out) != 0 || ferror(in);
}
