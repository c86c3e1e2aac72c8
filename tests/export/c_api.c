/* Answers an image by a raw SavedModel, through TensorFlow's C API alone, the way of other languages.
   Usage: c_api FOLDER PIXELS HEIGHT WIDTH ANSWER; pixels are grey, a byte each, the answer is the map of float32. */
#include <stdio.h>
#include <stdlib.h>
#include <tensorflow/c/c_api.h>

static TF_Status *status;

static void check(void) {
  if (TF_GetCode(status) != TF_OK) {
    fprintf(stderr, "%s\n", TF_Message(status));
    exit(1);
  }
}

static void release(void *data, size_t length, void *unused) { free(data); }

int main(int argc, char **argv) {
  const char *tags[] = {"serve"};
  status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_Session *session =
      TF_LoadSessionFromSavedModel(TF_NewSessionOptions(), NULL, argv[1], tags, 1, graph, NULL, status);
  check();
  const int64_t shape[] = {atoi(argv[3]), atoi(argv[4]), 1};
  size_t length = shape[0] * shape[1];
  unsigned char *pixels = malloc(length);
  FILE *file = fopen(argv[2], "rb");
  if (fread(pixels, 1, length, file) != length) return 2;
  TF_Tensor *image = TF_NewTensor(TF_UINT8, shape, 3, pixels, length, release, NULL), *map;
  TF_Output input = {TF_GraphOperationByName(graph, "serving_default_image"), 0};
  TF_Output output = {TF_GraphOperationByName(graph, "StatefulPartitionedCall"), 2}; /* mask, probabilities, map */
  TF_SessionRun(session, NULL, &input, &image, 1, &output, &map, 1, NULL, 0, NULL, status);
  check();
  file = fopen(argv[5], "wb");
  return fwrite(TF_TensorData(map), 1, TF_TensorByteSize(map), file) != TF_TensorByteSize(map) || fclose(file);
}
