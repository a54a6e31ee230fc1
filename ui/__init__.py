"""Everything that knows Streamlit or Altair, shared by the pages."""
