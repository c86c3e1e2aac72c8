// Read a DICOM SEG by the loader of OHIF: node ohif_loader.mjs PACKAGES SOURCE SEGMENTATION
// Prints JSON: `labels`, and `frames`, for each frame of the source the places of its pixels, row by row, by segment.
// PACKAGES is a folder in which @cornerstonejs/adapters is installed. The viewer's own part is its metadata: what OHIF
// tells the loader of ultrasound without coordinates is a plane along x and y.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [packages, source, segmentation] = process.argv.slice(2);
const find = createRequire(`${packages}/package.json`).resolve;
const load = (name) => import(pathToFileURL(find(name)));
const dcmjs = (await load('dcmjs')).default;
const { adaptersSEG } = await load('@cornerstonejs/adapters');
const { metaData } = await load('@cornerstonejs/core');

const read = (path) => new Uint8Array(readFileSync(path)).buffer;
const { DicomMessage, DicomMetaDictionary } = dcmjs.data;
const instance = DicomMetaDictionary.naturalizeDataset(DicomMessage.readFile(read(source)).dict);
const count = Number(instance.NumberOfFrames ?? 1);
const imageIds = Array.from({ length: count }, (_, i) => `wadors:/source/frames/${i + 1}`);
const told = {
  instance,
  generalImageModule: { sopInstanceUID: instance.SOPInstanceUID },
  generalSeriesModule: { seriesInstanceUID: instance.SeriesInstanceUID },
  imagePlaneModule: {
    rows: instance.Rows, columns: instance.Columns, imagePositionPatient: [0, 0, 0],
    rowCosines: [1, 0, 0], columnCosines: [0, 1, 0], rowPixelSpacing: 1, columnPixelSpacing: 1,
  },
  imagePixelModule: { bitsAllocated: 8, bitsStored: 8, highBit: 7, pixelRepresentation: 0, samplesPerPixel: 1 },
};
const metadataProvider = { get: (kind, id) => (imageIds.includes(id) ? told[kind] : undefined) };
metaData.addProvider(metadataProvider.get, 1);

const found = await adaptersSEG.Cornerstone3D.Segmentation.createFromDICOMSegBuffer(
  imageIds, read(segmentation), { metadataProvider },
);
const frames = imageIds.map(() => ({}));
for (const layer of found.labelMapImages) {
  layer.forEach((image, i) => image.getPixelData().forEach((segment, place) => {
    if (segment) (frames[i][segment] ??= []).push(place);
  }));
}
console.log(JSON.stringify({ labels: found.segMetadata.data.map((each) => each?.SegmentLabel ?? null), frames }));
