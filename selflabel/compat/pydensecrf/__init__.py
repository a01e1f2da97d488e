"""The interface of pydensecrf: ``import selflabel.compat.pydensecrf.densecrf as dcrf``."""
