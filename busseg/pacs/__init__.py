"""Results for a PACS: over DICOMweb, or as a DICOM node that receives images and sends its results to another node.

Messages name images by their UIDs alone; no patient's data, and no class, stands in them.
"""
